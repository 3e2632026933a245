# `make demo` and `make test` set everything up first; both can be run again and again.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: help setup demo test check docs clean

help:
	@echo "make demo   measure the shipped model on the shipped puzzles, write demo/report.html"
	@echo "make test   lint, types, layers, tests"
	@echo "make docs   the documentation, docs/_build/html/index.html"
	@echo "make setup  the virtual environment alone"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "loopscope needs Python 3.11 or newer; say make PYTHON=python3.12, for example"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,notebook]'
	touch $@

demo: setup
	$(BIN)/loopscope demo --out demo

test: setup check
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff check src tests scripts examples benchmarks notebooks/*.py
	$(BIN)/ruff format --check src tests scripts examples benchmarks notebooks/*.py
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf $(VENV) demo docs/_build docs/_generated .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
