# mmkit: what a developer and a visitor run. `make` alone lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
# Two busy cores: waiting threads that spin cost more than they give, in tests and tiny models alike.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo test check fix docs bench smoke science clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/run ## the AdaMLLM recipe in miniature, start to finish (about 4 minutes on two CPU cores)
	$(MAKE) --no-print-directory -C examples/adamllm demo BIN=$(CURDIR)/$(BIN)

test: .venv/dev ## the test suite
	$(BIN)/pytest

check: .venv/dev ## lint, types, layers, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_cli.py --check

fix: .venv/dev ## what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev ## write docs/cli.md from the commands' help
	$(BIN)/python docs/generate_cli.py

bench: .venv/dev ## measure, as ratios in one run
	$(BIN)/python benchmarks/bench.py

smoke: .venv/run ## every recipe with a few steps, to see that it runs
	$(MAKE) --no-print-directory -C examples/adamllm smoke BIN=$(CURDIR)/$(BIN)

science: .venv/dev ## planted truth over several seeds; an hour
	$(BIN)/pytest -m science

clean: ## remove what was built
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf examples/*/work

# Two stamps: the demo needs no test tools.
.venv/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[train,eval]'
	touch $@

.venv/dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	touch $@ .venv/run
