# Everything runs inside .venv in this folder. PYTHON chooses the interpreter, PIP_FLAGS adds options to pip.
PYTHON ?= python3.11
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_FLAGS)
ARM := gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm
SOURCES := src tests docs $(wildcard benchmarks)

.PHONY: help setup demo test test-slow test-gpu test-arm format lint types check docs wheel clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[torch]"
	@touch $@

$(VENV)/.dev-installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[torch,dev]"
	@touch $(VENV)/.torch-installed $@

setup: $(VENV)/.dev-installed  ## create .venv with everything that development needs (once)

demo: $(VENV)/.torch-installed  ## fit Fast-SCNN on generated conveyor images to this machine
	$(BIN)/bitfront fit

test: setup  ## the fast tests
	$(BIN)/pytest

test-slow: setup  ## the slow tests (minutes to hours)
	$(BIN)/pytest -m slow --timeout 7200

test-gpu: setup  ## the tests that need a CUDA device
	$(BIN)/pytest -m gpu --timeout 1800

test-arm: setup  ## integer C on emulated Cortex-M3, M4, M7 and M55 (Debian packages; root installs them)
	@command -v arm-none-eabi-gcc qemu-system-arm > /dev/null || apt-get install -y --no-install-recommends $(ARM) \
	  || echo "skipped: install $(ARM)"
	$(BIN)/pytest -m arm --timeout 1800

format: setup  ## rewrite the sources in the one format
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

lint: setup  ## format and lint, changing nothing
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: setup  ## strict type checking
	$(BIN)/mypy

check: lint types test  ## what must pass before a change lands

docs: setup  ## make the tables of the manual anew
	$(BIN)/python docs/make_tables.py

wheel: setup  ## build the wheel into dist/
	$(BIN)/python -m build --wheel

clean:  ## remove the environment and everything that was generated, except runs/
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
