# Everything runs in .venv, which is made on demand from the committed lock. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help venv up test lint format proto bench soak golden lock clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(STAMP) ## build the environment in .venv

up: $(STAMP) ## start the built-in single-node cluster in the foreground
	$(BIN)/boathouse up

lint: $(STAMP) ## style, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint ## everything CI runs
	$(BIN)/pytest

format: $(STAMP) ## rewrite the source in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: $(STAMP) ## regenerate the protobuf code
	$(BIN)/python tools/generate_proto.py

bench: $(STAMP) ## measure a three-node cluster against its ceiling and etcd
	$(BIN)/boathouse bench --against etcd

soak: $(STAMP) ## long randomised runs with fresh seeds: make soak SECONDS=1800
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600)

golden: $(STAMP) ## rewrite the golden transcripts; read the diff before you commit it
	BOATHOUSE_GOLDEN=rewrite $(BIN)/pytest -q tests/simulation/scripts

lock: $(VENV)/bin/pip-compile ## renew requirements.lock from pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --extra dev --no-emit-index-url --no-emit-trusted-host --no-header --output-file requirements.lock pyproject.toml

$(VENV)/bin/pip-compile:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check pip-tools

clean: ## remove the environment and caches, never data
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
