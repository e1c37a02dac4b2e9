"""What quantization did to every sensor: ``report.json``, a page for people, and a live table while it searches."""
