# Two commands do all the set-up: `make run` tries the demo bundle, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_INPUTS := pyproject.toml $(shell find cmake_ext -type f)

.PHONY: run test lint native-test clean

# Renders one simulated scene with every sensor, detects with the demo bundle, and leaves pictures under out/.
run: $(VENV)/runtime.stamp
	rm -rf out
	$(BIN)/python -m train.simulate --out out/scenes --train-scenes 0 --eval-scenes 1 --size 640 --seed 11 --workers 1
	$(BIN)/babelrs-run --sensor rgb out/scenes/DOTA_800pix/val/images --out out --save-images
	$(BIN)/babelrs-run --sensor sar out/scenes/SARDet_50K/JPEGImages --out out --save-images
	$(BIN)/babelrs-run --sensor ir out/scenes/DroneVehicle/dota_test/png_images --out out --save-images
	$(BIN)/python -m runtime.table out/detections.rgb.jsonl out/detections.sar.jsonl out/detections.ir.jsonl
	@echo "Pictures and JSON Lines are under out/."

test: lint native-test
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# The CPU's C++ under AddressSanitizer and UndefinedBehaviorSanitizer.
native-test: $(VENV)/dev.stamp
	cd cmake_ext && ../$(BIN)/cmake --preset sanitize >/dev/null
	cd cmake_ext && ../$(BIN)/cmake --build --preset sanitize
	cd cmake_ext && ../$(BIN)/ctest --preset sanitize

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Editable, so that `python -m train.simulate` in this folder finds the compiled extension: the folder itself,
# which Python searches first, has the sources only.
$(VENV)/runtime.stamp: $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install --quiet --editable .
	touch $@

$(VENV)/dev.stamp: $(BUILD_INPUTS) | $(BIN)/python
	$(PIP) install --quiet --editable '.[dev]'
	touch $@ $(VENV)/runtime.stamp

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build out
