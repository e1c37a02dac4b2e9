"""Doing less in a stated order where time, temperature or the engine do not allow all."""
