"""Data of the three sensors: readers, augmentation and sensor-ratio batches."""
