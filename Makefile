# Every target works in a new clone: it creates .venv and installs what it needs, once.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
PY := $(VENV)/bin/python
# Random interleavings and scenarios: long, and each for itself. PLAYS=200 plays fewer.
PLAYS_TESTS := tests/tasks/runs/test_interleavings.py tests/tasks/runs/test_scenarios.py
# By itself: how many answers a worker makes at once, and so holds, depends on what else runs.
MEMORY_TEST := tests/recoup/test_memory.py
POSTGRES_URL ?= postgres://postgres@127.0.0.1:5432/postgres

# Temporary files stay inside the clone.
export TMPDIR := $(CURDIR)/var/tmp
$(shell mkdir -p var/tmp)

# Settings of a production environment must not reach the tests or the demo.
CLEAN := env $(addprefix -u ,DATABASE_URL REDIS_URL ALLOWED_HOSTS HTTPS_ONLY SECRET_KEY API_KEY_SECRET \
  SECRET_KEY_FALLBACKS API_KEY_SECRET_FALLBACKS REQUEST_DEADLINE \
  TRIGGER_API_URL TRIGGER_SECRET_KEY TRIGGER_NAMESPACE TRIGGER_TASK_IDENTIFIER TRIGGER_PAYLOAD_OWNER_TASKS \
  TRIGGER_CALLS_PER_MINUTE RUN_RETENTION_DAYS REQUESTS_PER_MINUTE AUTH_FAILURES_PER_MINUTE TRUSTED_PROXIES METRICS_TOKEN \
  TOKEN_ISSUER TOKEN_AUDIENCE TOKEN_JWKS_URL TOKEN_PUBLIC_KEY TOKEN_ALGORITHMS TOKEN_ACCOUNTS TOKEN_USERINFO_URL PGBOUNCER \
  TASK_LIMIT MIN_CADENCE_MINUTES MAX_PROMPT_BYTES)

INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all:

.PHONY: help setup demo test test-postgres test-slow test-clients test-deploy install sbom images bench faults check openapi format lock clean
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.dev ## Create .venv with everything that development needs

demo: $(VENV)/.runtime ## Start the service with example data on http://127.0.0.1:8000 (PORT=8001 for another port)
	@exec $(CLEAN) PORT=$(PORT) $(PY) manage.py demo

test: $(VENV)/.dev ## Run the tests on SQLite
	@$(CLEAN) $(PY) -m pytest

test-postgres: $(VENV)/.dev ## Run the tests on PostgreSQL (POSTGRES_URL=postgres://user@host/db)
	@$(CLEAN) DATABASE_URL=$(POSTGRES_URL) $(PY) -m pytest

test-slow: $(VENV)/.dev ## Run the longer proofs: real servers, signals, killed processes
	@$(CLEAN) $(PY) -m pytest -m slow -n 4 --dist loadfile $(addprefix --ignore=,$(PLAYS_TESTS) $(MEMORY_TEST))
	@$(CLEAN) $(PY) -m pytest -m slow -n 0 $(MEMORY_TEST)
	@$(CLEAN) $(PY) -m pytest -m slow -n auto $(PLAYS_TESTS)

bench: $(VENV)/.runtime ## Measure requests, and how they grow (45 minutes; ten with BENCH_TASKS=20000 BENCH_RUNS=20000)
	@$(CLEAN) POSTGRES_URL=$(POSTGRES_URL) $(PY) -m bench

faults: $(VENV)/.dev ## Show what clients see while something is away (nine minutes; six with FAULT_SECONDS=5)
	@$(CLEAN) $(PY) -m faults

test-deploy: $(VENV)/.dev ## Play the runbook: install, upgrade, roll back, change secrets and restore under load (needs nginx)
	@$(CLEAN) $(PY) -m faults.deployment

# In an environment of its own: libraries of ours would use what it brings, where they find it.
sbom: ## Write var/sbom.json: what a release holds, in CycloneDX
	@$(PYTHON) -m venv var/sbom-venv && var/sbom-venv/bin/python -m pip install --quiet --disable-pip-version-check cyclonedx-bom
	@var/sbom-venv/bin/cyclonedx-py requirements requirements/runtime.lock --output-file var/sbom.json && echo var/sbom.json

install: ## Install a release for production: make install RELEASE=/opt/recoup/releases/1.0.0
	@PYTHON=$(PYTHON) deploy/install.sh "$(RELEASE)"

test-clients: $(VENV)/.dev .venv-clients/.made ## Let real clients work against the demo, and write docs/clients.md (EXAMPLES=0: no random requests)
	@$(CLEAN) $(PY) -m clients

images: $(VENV)/.dev ## Take the screenshots of docs/images, and check the pages with axe
	@$(CLEAN) $(PY) -m clients.images

# Production settings for `check --deploy`. None of them is real.
check: export SECRET_KEY := only-for-make-check-0123456789-abcdefghijklmnopqrstuvwxyz-ABCDEF
check: export API_KEY_SECRET := only-for-make-check-abcdefghijklmnopqrstuvwxyz
check: export ALLOWED_HOSTS := api.example.org
check: export HTTPS_ONLY := true
check: export TRIGGER_API_URL := https://trigger.example.org
check: export TRIGGER_SECRET_KEY := tr_prod_only_for_make_check
check: $(VENV)/.dev ## Check formatting, lint, types, imports, dependencies, migrations, deployment and schema
	@$(PY) -m ruff format --check --quiet . || { echo 'Not formatted: run "make format".'; exit 1; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-cache > /dev/null || $(VENV)/bin/lint-imports --no-cache
	@$(PY) -m deptry . --no-ansi > /dev/null 2>&1 || $(PY) -m deptry . --no-ansi
	@$(PY) manage.py makemigrations --check --dry-run
	@$(PY) manage.py check --deploy --fail-level WARNING
	@$(PY) manage.py spectacular --validate --fail-on-warn --file /dev/null
	@echo "make check: clean"

openapi: $(VENV)/.dev ## Write docs/openapi.json; a change that breaks clients needs BREAKING=1
	@$(CLEAN) $(PY) -m tests.contract.committed

format: $(VENV)/.dev ## Format the code, and fix what the linter can
	@$(PY) -m ruff format --quiet . && $(PY) -m ruff check --fix .

lock: $(VENV)/.made ## Renew the hashed lock files from pyproject.toml and requirements/clients.in
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(PY) -m uv pip compile pyproject.toml $(LOCK_OPTIONS) -o requirements/runtime.lock
	@$(PY) -m uv pip compile pyproject.toml --group dev -c requirements/runtime.lock $(LOCK_OPTIONS) -o requirements/dev.lock
	@$(PY) -m uv pip compile requirements/clients.in $(LOCK_OPTIONS) -o requirements/clients.lock

LOCK_OPTIONS := --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

clean: ## Remove .venv, the demo's data and every cache
	@rm -rf $(VENV) .venv-clients var .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed, and $(PYTHON) was not found or is older. For example: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python cannot make a virtual environment. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@touch $@

$(VENV)/.runtime: requirements/runtime.lock | $(VENV)/.made
	@echo "Installing what the service needs ..."
	@$(INSTALL) -r $< && touch $@

.venv-clients/.made: requirements/clients.lock
	@echo "Installing the clients ..."
	@$(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $< && touch $@

# dev.lock holds all of runtime.lock, in the same versions.
$(VENV)/.dev: requirements/dev.lock requirements/runtime.lock | $(VENV)/.made
	@echo "Installing what the service and its tests need ..."
	@$(INSTALL) -r $< && touch $(VENV)/.runtime $@
