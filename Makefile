# Every target makes what it needs first; a second run is quick (stamp files in .venv).
#
#   make run       one node on this machine
#   make cluster   three of them
#   make test      the whole test suite
#   make lint      formatting, lint, types, layers
#   make bench     figures beside Knot's and etcd's
#   make sim       SEEDS=200 START=1: run the Raft simulator
#   make mutants   put bugs into the core, one by one, and have the simulator find each
#   make faults    SECONDS=60: harm a cluster of real nodes and judge what its clients saw
#   make soak      SECONDS=3600: load a cluster that is upset all the while; what is lost, what grows
#   make scripts   DIR=…: run Raft scripts in etcd-raft's data-driven form
#   make docs      the documentation as a site, in build/docs; warnings are errors
#   make pages     write the pages that are made from the code
#   make fmt       format and fix what can be fixed
#   make install   PREFIX=/usr/local DESTDIR=: for systemd, on this machine or into a package; make uninstall
#   make clean     remove the environment and caches (the data of run and cluster stays)

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first Python that is new enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

# Every install, and every build inside an install, takes exactly the versions listed there.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ARGS ?=

.PHONY: run cluster test lint docs pages sim mutants faults soak bench scripts fmt clean venv install uninstall
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	$(BIN)/aspen dev --data-dir .aspen-run $(ARGS)

cluster: $(VENV)/.installed
	$(BIN)/aspen dev --nodes 3 $(ARGS)

# Files side by side, each file's tests in their order, the longest first (tests/conftest.py).
# A failed test is tried once more, and named in the summary (docs/hacking.md, "Tests").
# Hundreds of nodes and commands are started: without compiled modules each would compile all of them again.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.installed-test
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder \
		--reruns 1 --rerun-show-tracebacks $(ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# `.installed-docs` has mkdocs beside the rest; what it makes fetches nothing from other hosts.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pages: $(VENV)/.installed-test
	$(BIN)/python scripts/pages.py
	$(BIN)/python -m aspen.cli.reference
	$(BIN)/python deploy/grafana/dashboard.py

bench: $(VENV)/.installed-test
	$(BIN)/python -m bench --json bench.json $(ARGS)

SEEDS ?= 200
START ?= 1

sim: $(VENV)/.installed-test
	$(BIN)/python tests/sim/run.py --seeds $(SEEDS) --start $(START) $(ARGS)

mutants: $(VENV)/.installed-test
	$(BIN)/python tests/sim/mutants.py $(ARGS)

SECONDS ?= 60

faults: $(VENV)/.installed-test
	$(BIN)/python tests/faults/run.py --seconds $(SECONDS) $(ARGS)

soak: SECONDS := 3600
soak: $(VENV)/.installed-test
	$(BIN)/python tests/soak/run.py --seconds $(SECONDS) $(ARGS)

scripts: $(VENV)/.installed-test
	@test -n "$(DIR)" || { echo "make scripts DIR=<folder of scripts>"; exit 2; }
	$(BIN)/python tests/raft/run_scripts.py $(ARGS) $(DIR)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

venv: $(VENV)/.installed

# On this machine, for systemd: docs/operating.md, and the settings at the head of the script.
export DESTDIR PREFIX UNITDIR SYSUSERSDIR TMPFILESDIR
install:
	PYTHON="$(PYTHON)" deploy/install.sh install

uninstall:
	deploy/install.sh uninstall

$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "Aspen needs Python 3.11 or newer (set PYTHON=…)."; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "On Debian: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-docs: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[docs]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/pip
	$(BIN)/pip install --quiet --editable '.[test]'
	@touch $@ $(VENV)/.installed
