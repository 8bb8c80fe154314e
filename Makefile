# Everything starts from a bare Python: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= runs/demo

.PHONY: demo test bench lint docs install clean
.DELETE_ON_ERROR:

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("thermograd needs Python 3.11 to 3.13, got %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if not (3, 11) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[offline,dev]'
	@touch $@

demo: install  ## two ways of learning on 5,000 real digits, two seeds each, and the report that compares them
	$(BIN)/thermograd study run demo --out $(DEMO)
	$(BIN)/thermograd report $(DEMO)

test: install  ## the whole suite
	$(BIN)/python -m pytest -n 2

bench: install  ## speed, memory and accuracy for cost, in less than ten minutes on a quiet machine
	$(BIN)/python benchmarks/bench.py $(BENCH)

lint: install  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/.docs: .venv/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: .venv/.docs  ## the documentation site, in site/; warnings are errors
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --fresh-env -c docs . site

clean:
	rm -rf .venv runs site
