"""Measurements of the whole: latency, kernels, suppression, scenes, accuracy, roofline."""
