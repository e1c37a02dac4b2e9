"""The onboard runtime: images in, detections out, with numpy, OpenCV and an inference engine only."""
