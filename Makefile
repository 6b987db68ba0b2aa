# Two commands do all the set-up: `make test` and `make bench`.
#
# .venv/.installed stands for "the package and its tools are installed from these files";
# it is made anew when one of them changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := setup.py pyproject.toml fastattn/implementations/_native.pyx \
          $(wildcard src_cpp/*.hpp src_cpp/*.cpp src_cpp/*/*.hpp src_cpp/*/*.cpp)
PROFILE ?= standard

.PHONY: help bench preview test test-thorough lint sanitize clean

help:
	@echo "make test       set up .venv, build, and run the tests"
	@echo "make bench      benchmark the current commit with asv, publish, print a table"
	@echo "make preview    serve the published pages"
	@echo "make lint       ruff, mypy, clang-format where installed"
	@echo "make sanitize   the tests of the C++ side under AddressSanitizer and UBSan"
	@echo "make clean      remove .venv, build results and caches"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(NATIVE) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-thorough: $(VENV)/.installed
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .asv build *.egg-info fastattn/implementations/*.so
