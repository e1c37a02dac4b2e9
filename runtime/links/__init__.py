"""Detections over a link that is thin and comes and goes: what is worth most goes first; all waits on disk."""
