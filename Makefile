# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need in $(VENV).
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# pip 21.3 and setuptools 58 are the last that install on Python 3.6 (the Jetson's)
TOOLS = $(shell $(PYTHON) -c 'import sys; print("pip==21.3.1 setuptools<60 wheel<0.38" if sys.version_info < (3, 7) else "pip setuptools wheel")')

# What `make jetson-check` is given: make jetson-check BUNDLE=bundle IMAGES=photos
# Exported, so that the shell takes a name with spaces or quotes as it is.
export BUNDLE ?= bundle
export IMAGES ?=
export REPORT ?= jetson-report.json
JETSON_VENV ?= .venv-jetson
# The pins of the JetPack that is found, by its release of Linux for Tegra; on a PC those of the TX2.
L4T ?= $(shell sed -n 's/^. R\([0-9]*\) .*/\1/p' /etc/nv_tegra_release 2>/dev/null)
JETSON_PINS = requirements/jetson-$(or $(pins-$(L4T)),l4t-$(L4T)).txt
pins- = tx2
pins-32 = tx2
pins-34 = jetpack5
pins-35 = jetpack5
pins-36 = jetpack6
pins-38 = jetpack7
pins-39 = jetpack7

known_l4t = $(sort $(patsubst pins-%,%,$(filter pins-%,$(.VARIABLES))))

.PHONY: demo test test-slow wheel-check tensorrt-check lint format docs screenshots clean jetson jetson-check arm64-check

demo: $(VENV)/.demo
	$(BIN)/picnic-edge demo

# In two processes, however many cores there are, since each may hold a TensorFlow; a file of tests is one process's.
# Where one dies, the run ends: pytest-xdist would take up another and may wait for ever for the rest of that file.
# `make test COVERAGE=1` takes up to half as long again, shows the share of lines that the tests run, and fails below 90 %.
test: $(VENV)/.test
	$(if $(COVERAGE),rm -rf build/coverage && mkdir -p build/coverage)
	$(BIN)/python $(if $(COVERAGE),-m coverage run) -m pytest -q --numprocesses 2 --dist loadfile --max-worker-restart 0
	$(if $(COVERAGE),$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -q -m "slow or not slow"

# Builds a wheel and tries it in a bare environment: tests/test_wheel.py; on Python 3.6 also what `make jetson` makes.
wheel-check: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow tests/test_wheel.py tests/test_jetson_install.py

# The simulated TensorRT's members beside those of NVIDIA's own modules, which pip downloads; and plans of the bundle that
# the tests of `make test` trained (35 s).
tensorrt-check: $(VENV)/.test
	$(BIN)/python -m pytest -q -m slow tests/test_simulator_table.py tests/convert/test_tensorrt_rtx.py

lint: $(VENV)/.test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# The site, in build/site; broken links are errors. -m: the repository itself, not only what is installed, is documented.
docs: $(VENV)/.docs
	$(BIN)/python -m mkdocs build --strict

# The pictures of the README and the docs, from a run of the demo; needs chromium.
screenshots: demo
	$(BIN)/python -m docs.scripts.screenshots demo docs/images

# Installs the package with the extra that the target is named after, again whenever setup.py changes.
$(VENV)/.%: setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade $(patsubst %,'%',$(TOOLS))
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	touch $@

# On a Jetson: docs/jetson/index.md. Not --editable: the command that setuptools writes for that asks
# for all requirements by name at every start, and JetPack's OpenCV has none. So it is installed again at every call.
jetson: $(JETSON_VENV)/.done
	rm -rf build/lib build/bdist.*
	$(JETSON_VENV)/bin/python -m pip install --quiet --no-deps --no-build-isolation .

# The environment sees JetPack's own OpenCV and TensorRT; --no-deps keeps pip from putting its OpenCV before it.
$(JETSON_VENV)/.done: setup.py $(JETSON_PINS)
	test -x $(JETSON_VENV)/bin/python || $(PYTHON) -m venv --system-site-packages $(JETSON_VENV)
	$(JETSON_VENV)/bin/python -m pip install --quiet --upgrade $(patsubst %,'%',$(TOOLS))
	$(JETSON_VENV)/bin/python -m pip install --quiet --only-binary=:all: --requirement $(JETSON_PINS)
	touch $@

# Of a release that has no pins.
requirements/jetson-l4t-%.txt:
	@echo "L4T $* is not known; known: $(known_l4t). Choose one of them: make jetson L4T=$(lastword $(known_l4t))" >&2; exit 1

# All that can only be simulated without a board; goes on after whatever fails and writes $(REPORT) to send back.
jetson-check:
	-$(MAKE) jetson
	test -e $(JETSON_VENV)/.done && python=$(JETSON_VENV)/bin/python || python=$(PYTHON); \
	OPENBLAS_CORETYPE=ARMV8 $$python -m benchmarks.board.jetson_check "$$BUNDLE" $${IMAGES:+--images "$$IMAGES"} --out "$$REPORT"

# The wheel in an emulated Debian for Arm beside this machine: docs/raspberry-pi.md. Needs root, debootstrap and qemu.
arm64-check: $(VENV)/.test
	$(BIN)/python -m benchmarks.board.arm64_check "$$BUNDLE" --images "$${IMAGES:-$$BUNDLE/sample}"

clean:
	rm -rf $(VENV) $(JETSON_VENV) demo build *.egg-info
