# make quickstart   every stage on embedded models; ends with a table and a report
# make test         checks and tests;  make test-all  also the slow ones

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install quickstart test test-all test-matrix check format lock clean

help:
	@echo "make quickstart  install, run every stage on embedded models, print the table"
	@echo "make install     create .venv from the pinned files in envs/"
	@echo "make test        format, lint and type checks, and the tests that take minutes"
	@echo "make test-all    make test, then the slow tests"
	@echo "make test-matrix the paper's whole matrix on a random tiny model (a quarter of an hour)"
	@echo "make format      format Python and Snakemake files"
	@echo "make lock        resolve envs/main.in anew (needs uv)"
	@echo "make clean       remove the quickstart's results"

install: $(INSTALLED)

$(INSTALLED): envs/main.txt envs/main-nodeps.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "FGit needs Python 3.11 or later, but $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	       "name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "python3 could not make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	@echo "Installing the pinned packages into .venv (minutes) ..."
	@$(BIN)/python -m pip install --quiet -r envs/main.txt
	@$(BIN)/python -m pip install --quiet --no-deps -r envs/main-nodeps.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

quickstart: install
	snakemake --profile local all
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

test: check
	python -m pytest -m "not slow and not matrix"

test-all: test
	python -m pytest -m slow

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
