# The tasks of pixi.toml for a machine that has only Python, git and make.
# Each task runs the same command there and here; a test compares the two files.

PYTHON_FOR_VENV ?= python3
VENV := .venv
PYTHON := $(VENV)/bin/python
PIP := $(PYTHON) -m pip install --disable-pip-version-check --quiet --quiet
INSTALLED := $(VENV)/.installed
CLIENTS := $(VENV)/.clients

.PHONY: train mojo-examples test test-fuzz test-soak test-faults test-clients check bench build clean

train: build
	$(PYTHON) examples/python/digits.py

mojo-examples: build
	$(PYTHON) tools/mojo_examples.py

test: build
	$(PYTHON) tools/suite.py

test-fuzz: build
	$(PYTHON) tools/suite.py --hypothesis-profile=fuzz tests/properties

test-soak: build
	$(PYTHON) tools/suite.py --numprocesses=0 -m soak

test-faults: build
	$(PYTHON) tools/suite.py --numprocesses=0 -m faults tests/integration/faults

test-clients: $(CLIENTS) build
	$(PYTHON) tools/suite.py tests/clients

check: build
	$(PYTHON) tools/check.py

bench: build
	$(PYTHON) benchmarks/optimizer_step.py

build: $(INSTALLED)
	$(PYTHON) tools/kernels.py --if-stale

# torch first and alone: whatever needs it later finds it installed, and a CPU
# build is taken where pip knows of one (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS).
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON_FOR_VENV) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch numpy
	$(PIP) --constraint constraints.txt hatchling editables mojo-compiler
	$(PIP) --constraint constraints.txt --no-build-isolation --editable '.[dev,examples]'
	touch $@

# The programs that tests/clients run; the other tasks do without.
$(CLIENTS): $(INSTALLED)
	$(PIP) --constraint constraints.txt --no-build-isolation --editable '.[clients]'
	touch $@

clean:
	rm -rf $(VENV) dist build python/hotloop/_kernels.*
