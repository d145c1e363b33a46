# Sluice: `make run` serves, `make test` tests. Needs Python 3.11 and pip; everything else is installed into .venv.
PYTHON ?= python3
ENGINE ?= auto
MODEL ?=
WORKERS ?= 1
TP ?= 1
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup protos fix check test run bench clean

help:  ## Show this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo 'ENGINE=auto|vllm|simulated   auto: vLLM on CUDA where nvidia-smi answers, else vLLM on the CPU'
	@echo 'MODEL=<folder or hub name>   default: the demo model, made on the spot; on a GPU with a hub in reach, Qwen2.5-7B-Instruct'
	@echo 'WORKERS=1 TP=1               worker processes, and GPUs each of them uses'

setup:  ## Build .venv or bring it up to date; every other target does so by itself
	@$(PYTHON) .ci/environment.py --engine $(ENGINE)

protos: setup  ## Generate the stubs in protos/gen from the protos
	@$(BIN)/python .ci/stubs.py

fix: setup  ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

check: setup  ## Lint, types, stubs in step with the protos, protos' style
	@echo '[check] ruff'; $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@echo '[check] mypy'; $(BIN)/mypy
	@echo '[check] stubs in step with the protos'; $(BIN)/python .ci/stubs.py --check
	@echo '[check] buf lint'; cd protos && ../$(BIN)/buf lint

test: setup  ## Run all tests, on the real engine too
	@$(BIN)/python -m pytest

run: setup  ## Start scheduler and worker, stream a first answer, stay up
	@$(BIN)/sluice up --engine $(ENGINE) --model '$(MODEL)' --workers $(WORKERS) --tensor-parallel-size $(TP)

bench: setup  ## Compare with in-process vLLM on the same engine
	@$(BIN)/python -m tests.bench.overhead

clean:  ## Remove what was made: environment, caches, demo model
	rm -rf .venv .cache results dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
