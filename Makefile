# Quartermaster's commands. `make` alone lists them. Nothing here needs more than Debian 12's python3 and make.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
LOCK := requirements/dev.lock
UV_VERSION := 0.13.9

# What `make demo` and `make bench` take; empty = the command's own default.
DURATION ?=
ORDERS ?=
NODES ?=
NODE_COUNT ?=
SHARDS ?=
RATE ?=
STORY ?=
QUICK ?=
DEMO_FLAGS = $(if $(DURATION),--duration $(DURATION)) $(if $(ORDERS),--orders '$(ORDERS)') $(if $(NODES),--nodes '$(NODES)') \
	$(if $(NODE_COUNT),--node-count $(NODE_COUNT)) $(if $(SHARDS),--shards $(SHARDS)) $(if $(RATE),--rate $(RATE)) \
	$(if $(STORY),--story)

.PHONY: setup demo run test check bench clean help
.PHONY: static unit redis-server postgresql

help: ## List these commands
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## Make .venv with the locked packages (done once, and again when the lock changes)

# A stamp, not .venv itself: an interrupted set-up starts over, a changed lock is synchronised.
$(STAMP): $(LOCK) pyproject.toml clients/python/pyproject.toml Makefile
	@rm -f $@
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(None if ok else \
		"Quartermaster runs on Python 3.11 to 3.13, %s is %s: make setup PYTHON=python3.11" % (sys.executable, sys.version.split()[0]))'
	@if ! [ -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
			echo "python3-venv is missing: installing it with apt-get"; \
			[ "$$(id -u)" = 0 ] || { echo "run this as root, once: apt-get install python3-venv" >&2; exit 1; }; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-venv >/dev/null; \
		fi; \
		echo "Making $(VENV)"; $(PYTHON) -m venv --clear $(VENV); \
	fi
	@$(BIN)/python -c 'from importlib.metadata import version; assert version("uv") == "$(UV_VERSION)"' 2>/dev/null \
		|| $(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "Installing the packages of $(LOCK) (a few minutes the first time)"
# Compiled here: a process of the engine starts in a third of the time, also where Python is told to write no bytecode.
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes $(LOCK)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . -e clients/python
	@$(BIN)/python -m compileall -q engine gateway solvers
	@$(BIN)/python -m solvers.warm
	@touch $@

demo: $(STAMP) ## Start everything and play storefront traffic (DURATION=20 ORDERS=FILE NODES=FILE NODE_COUNT=60 SHARDS=2 RATE=100 STORY=1)
	@$(BIN)/quartermaster demo $(DEMO_FLAGS)

run: $(STAMP) ## Start the engine on ./data and stay in the foreground (SHARDS=2)
	@$(BIN)/quartermaster up $(if $(SHARDS),--shards $(SHARDS))

test: $(STAMP) redis-server postgresql static ## All that CI runs: format, lint, types, import rules, every test
	@$(BIN)/pytest

check: $(STAMP) static unit ## The quick part of it, under a minute: the same without the slow tests

bench: $(STAMP) ## Measure against the peers, side by side (QUICK=1: under 5 minutes)
	@code=0; $(BIN)/python -m loadtests.bench $(if $(QUICK),--quick) || code=$$?; \
		if [ -e loadtests/results/latest.json ]; then $(BIN)/python -m docs.tools.figures; fi; exit $$code

static: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

unit: $(STAMP)
	@$(BIN)/pytest tests/unit -q

# The journal's contract suite runs against a stock redis-server too; it skips where there is none, and fails if CI is set.
redis-server:
	@if ! command -v redis-server >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "redis-server is missing (the contract tests need it): installing it with apt-get"; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server >/dev/null; \
		else \
			echo "note: no redis-server on PATH: the contract tests run against the embedded server only" >&2; \
		fi; \
	fi

# The index is tested on SQLite and on a private PostgreSQL cluster; without one those tests skip, and fail if CI is set.
postgresql:
	@if ! command -v initdb >/dev/null && ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "postgresql is missing (the index is tested on it): installing it with apt-get"; \
			mkdir -p /etc/postgresql-common && echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf; \
			apt-get update -qq && apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold \
				postgresql >/dev/null; \
		else \
			echo "note: no PostgreSQL on this machine: the index is tested on SQLite only" >&2; \
		fi; \
	fi

clean: ## Remove caches, build output and .venv (never ./data)
	@rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
