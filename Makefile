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
VLLM := .venv-vllm
VLLM_ENVIRONMENT := tests/with_vllm/environment
VLLM_PIP := $(VLLM)/bin/pip install --quiet --disable-pip-version-check --no-deps

.PHONY: help demo test test-vllm check fix docs bench bench-vllm bench-gpu smoke science lock-vllm clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/run ## the AdaMLLM recipe in miniature, start to finish (about 4 minutes on two CPU cores)
	$(MAKE) --no-print-directory -C examples/adamllm demo BIN=$(CURDIR)/$(BIN)

test: .venv/dev ## the test suite
	$(BIN)/pytest

test-vllm: .venv-vllm/ready ## the tests against the real vLLM, in an environment of their own
	$(VLLM)/bin/pytest tests/with_vllm

check: .venv/dev ## lint, types, layers, generated docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_cli.py --check
	$(BIN)/python docs/generate_benchmarks.py --check

fix: .venv/dev ## what can be mended by a tool
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/dev ## write docs/cli.md from the commands' help, docs/benchmarks.md from the definitions
	$(BIN)/python docs/generate_cli.py
	$(BIN)/python docs/generate_benchmarks.py

bench: .venv/dev ## measure, as ratios in one run; TRL=DIR: beside TRL too (pip install --no-deps --target DIR trl)
	$(if $(TRL),PYTHONPATH="$(TRL)") $(BIN)/python benchmarks/bench.py

bench-vllm: .venv-vllm/ready ## the same for the vllm engine, against LLM.chat
	$(VLLM)/bin/python benchmarks/engine_vllm.py

bench-gpu: .venv/run ## training speed and profiles of Qwen2-VL-2B and -7B with random weights; needs an NVIDIA GPU
	$(BIN)/python benchmarks/training_gpu.py --out build/profiles

smoke: .venv/run ## every recipe with a few steps, to see that it runs
	$(MAKE) --no-print-directory -C examples/adamllm smoke BIN=$(CURDIR)/$(BIN)
	$(MAKE) --no-print-directory -C examples/mlan smoke BIN=$(CURDIR)/$(BIN)
	$(MAKE) --no-print-directory -C examples/mint smoke BIN=$(CURDIR)/$(BIN)
	$(MAKE) --no-print-directory -C examples/visatb smoke BIN=$(CURDIR)/$(BIN)

science: .venv/dev ## planted truth over several seeds, and what came out; two and a half hours of CPU time (visatb half, mlan a third)
	$(BIN)/pytest -m science -rP

lock-vllm: ## pin anew what the tests against vLLM install
	$(PYTHON) $(VLLM_ENVIRONMENT)/lock.py > $(VLLM_ENVIRONMENT)/requirements.new
	mv $(VLLM_ENVIRONMENT)/requirements.new $(VLLM_ENVIRONMENT)/requirements.txt

clean: ## remove what was built
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
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

# vLLM without CUDA, each file by its hash; torch by its version, as its build for CPUs differs from place to place.
# One that cannot be imported fails here: nothing is skipped.
.venv-vllm/ready: pyproject.toml $(wildcard $(VLLM_ENVIRONMENT)/*.txt $(VLLM_ENVIRONMENT)/*/*)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) --require-hashes --only-binary :all: --requirement $(VLLM_ENVIRONMENT)/requirements.txt
	$(VLLM_PIP) torch==2.13.0+cpu
	$(VLLM_PIP) --no-build-isolation ./$(VLLM_ENVIRONMENT)/vllm_name --editable .
	$(VLLM)/bin/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(VLLM)/wheels \
	    --requirement $(VLLM_ENVIRONMENT)/other_release.txt
	$(VLLM)/bin/python $(VLLM_ENVIRONMENT)/check.py
	touch $@
