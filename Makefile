# Two commands do all the set-up: `make run` tries the demo bundle, `make test` checks everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_INPUTS := pyproject.toml $(shell find cmake_ext -type f)

.PHONY: run test lint clean

run: $(VENV)/runtime.stamp
	$(BIN)/babelrs-run --help

test: lint
	$(BIN)/python -m pytest

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
	rm -rf $(VENV) out
