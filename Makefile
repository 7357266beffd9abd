# Everything goes through .venv, which `setup` makes from constraints.txt. Nothing else is needed but Python 3.11 and pip.
PYTHON ?= python3.11
BIN := .venv/bin
DATA ?=
ONLY ?=

.PHONY: help setup demo up test check format prove clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

# torch first and pinned: a resolver that is free to choose fetches gigabytes of accelerator packages.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check "pip==25.3"
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt --group dev -e .
	$(BIN)/python -c "import models.ranking.two_stage"  # compiles its loops, once
	@touch $@

setup: .venv/ready  ## make .venv with everything pinned

demo: setup  ## the life of a shop, start to end: make demo [DATA=online_retail.csv.gz]
	$(BIN)/amalgam demo $(if $(DATA),--data $(DATA))

up: setup  ## Prefect, service and Evidently UI until Ctrl-C (as a demo without AMALGAM_ID_KEY)
	$(BIN)/amalgam up $(if $(AMALGAM_ID_KEY),,--demo)

# Two files of tests at a time, with one thread each: threads that wait for each other on a full machine are ten times slower.
test: setup  ## all tests with small counts
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: setup  ## formatting, lint, types, import floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

prove: setup  ## the full counts, a JSON line each: make prove [ONLY=name]
	$(BIN)/python -m benchmarks.prove $(ONLY)

clean:  ## remove caches, never data
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
