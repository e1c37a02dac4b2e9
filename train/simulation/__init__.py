"""A sensor-aware scene simulator: one world, seen by an RGB camera, a SAR and an infrared camera."""
