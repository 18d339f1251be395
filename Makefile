# Everything runs in .venv, which is made on demand from the committed lock. `make help` lists the targets.

# Tests start hundreds of processes. Where the environment keeps Python from writing down what it has compiled, each of
# them compiles all of its modules anew, which is a third of what it does until it serves.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help venv up test lint format proto conformance beside patroni bench soak golden screenshots docs lock hooks clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "boathouse needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes --requirement requirements.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

venv: $(STAMP) ## build the environment in .venv

up: $(STAMP) ## start the built-in single-node cluster in the foreground
	$(BIN)/boathouse up

lint: $(STAMP) ## style, spelling, types and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# As many tests at once as there are cores; those that time what they see have the machine to themselves. Only the few
# files that have such are collected for them, since to collect all takes longer than most tests.
test: lint ## everything CI runs
	$(BIN)/pytest -q -m "not alone and not long" --numprocesses auto --maxprocesses 4 --dist loadfile
	$(BIN)/pytest -q -m "alone and not long" $$(grep -rl --include='test_*.py' 'pytest\.mark\.alone' tests)

format: $(STAMP) ## rewrite the source in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: $(STAMP) ## regenerate the protobuf code
	$(BIN)/python tools/generate_proto.py

# A program is built when a test first needs it, and has a limit of its own for that: the test's begins afterwards.
FOREIGN := -q -o faulthandler_timeout=0 -o timeout_func_only=true tests/conformance/foreign
conformance: $(STAMP) ## try programs of others, and the docs against three hosts; needs Go, Rust, PostgreSQL, root
	$(BIN)/pytest $(FOREIGN)
	$(BIN)/pytest -q -m long
	$(MAKE) beside

# What a later etcd does otherwise is named in tests/conformance/versions.py.
BESIDE := $(patsubst %,tests/conformance/test_%.py,golden_probes lease lock_and_election watch auth maintenance \
	differential watch_differential auth_differential expiry_differential etcdctl_sessions)
beside: $(STAMP) ## what make test holds against etcd 3.5.1, against 3.5.35 and 3.7.3; needs Go
	@for version in 3.5 3.7; do \
		etcd=$$($(BIN)/python -m tests.conformance.foreign.programs etcd-$$version) || exit 1; \
		echo "beside $$etcd"; BOATHOUSE_ETCD=$$etcd $(BIN)/pytest -q $(BESIDE) || exit 1; \
	done

patroni: $(STAMP) ## PostgreSQL under Patroni, whose lock is in boathouse; needs PostgreSQL
	$(BIN)/pytest $(FOREIGN)/test_patroni.py

bench: $(STAMP) ## measure a three-node cluster against its ceiling and etcd
	$(BIN)/boathouse bench --against etcd

soak: $(STAMP) ## long randomised runs with fresh seeds: make soak SECONDS=1800
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),600)

golden: $(STAMP) ## rewrite the golden transcripts; read the diff before you commit it
	BOATHOUSE_GOLDEN=rewrite $(BIN)/pytest -q tests/simulation/scripts

screenshots: $(STAMP) ## take the pictures of docs/ anew
	$(BIN)/python -m tests.unit.tui.screenshots docs

docs: $(STAMP) ## write the references of all commands and of the cluster file, docs/commands.md and cluster-file.md
	$(BIN)/python -m tools.reference > docs/commands.md
	$(BIN)/python -m tools.file_reference > docs/cluster-file.md

# Neither the index nor a wheel folder of whoever ran it belongs in the lock: hashes say what is meant.
lock: $(BIN)/pip-compile ## renew requirements.lock from pyproject.toml
	$(BIN)/pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --extra dev --extra tracing --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
		--output-file requirements.lock pyproject.toml

$(BIN)/pip-compile:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install pip-tools

hooks: $(STAMP) ## let git run the checks of .pre-commit-config.yaml before each commit
	$(BIN)/pre-commit install

clean: ## remove the environment and caches, never data
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
