# Two commands are enough for most people: `make run` and `make test`. `make help` lists all.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
CACHE ?= $(or $(DETR_SENTRY_CACHE),$(HOME)/.cache/detr-sentry)
SOURCE ?=
MODEL ?=
ARGS ?=

.PHONY: help setup run test check e2e bench schemas lock format open clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/.engine: requirements.lock pyproject.toml tools/make-venv
	tools/make-venv $(PYTHON) $(VENV) requirements.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.engine requirements-dev.lock
	tools/make-venv $(PYTHON) $(VENV) requirements-dev.lock
	@touch $@

setup: $(VENV)/.engine ## prepare the virtual environment, start nothing

run: setup ## start the engine: the demo scene, or SOURCE=camera-url-or-file, MODEL=name, ARGS="--port 9000"
	@$(BIN)/detr-sentry run $(if $(SOURCE),--source '$(SOURCE)') $(if $(MODEL),--model '$(MODEL)') $(ARGS)

open: ## open the page of a running engine
	@$(PYTHON) -m webbrowser http://127.0.0.1:8099/

test: $(VENV)/.dev ## unit, property and real-part tests
	@tools/test-packages
	$(BIN)/pytest tests/engine $(ARGS)

check: $(VENV)/.dev ## format, lint, types, schema freshness
	@tools/test-packages --quiet
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	tools/schemas --check
	$(BIN)/python tools/readme_tables --check

e2e: $(VENV)/.dev ## the whole engine with a browser, and a real-kernel camera in a guest
	@tools/e2e-packages
	@tests/e2e/guest/setup.sh || echo "**** LEFT OUT: cameras in a guest kernel"
	$(BIN)/pytest tests/e2e $(ARGS)

bench: $(VENV)/.dev ## measure against the budgets; writes tests/benchmarks/results/
	$(BIN)/detr-sentry bench all --output tests/benchmarks/results

schemas: $(VENV)/.dev ## regenerate the FlatBuffers code and the JSON schemas
	tools/schemas

format: $(VENV)/.dev ## format and mend what the linter can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: $(VENV)/.dev ## resolve the newest allowed dependencies into the lock files
	tools/lock $(BIN)

clean: ## remove what make made here
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
