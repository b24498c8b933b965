# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# pip 21.3 and setuptools 58 are the last that install on Python 3.6 (the Jetson's)
TOOLS = $(shell $(PYTHON) -c 'import sys; print("pip==21.3.1 setuptools<60 wheel<0.38" if sys.version_info < (3, 7) else "pip setuptools wheel")')

.PHONY: demo test test-slow lint format clean

demo: $(VENV)/.demo
	$(BIN)/picnic-edge demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -q

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "slow or not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# Installs the package with the extra that the target is named after, again whenever setup.py changes.
$(VENV)/.%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade $(patsubst %,'%',$(TOOLS))
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) demo build *.egg-info
