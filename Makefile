# Every target does its own set-up: Python >= 3.11 and make are enough. `make help` lists the targets.
# Packages come from where pip is told to get them (pip.conf, PIP_INDEX_URL).

# An interpreter counts when it starts, is new enough and can make environments (Debian: python3-venv).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
RUN := .venv/bin/python
READY := .venv/.ready

# Arguments for pytest (TESTS="tests/test_settings.py -k endpoint"), environments of the matrix (ENVS="oldest newest").
TESTS ?=
ENVS ?=

# Parts of the stack besides its core: demo, and one of persistent, jaeger-only (WITH="demo persistent").
WITH ?=
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo .venv/bin/docker-compose)
STACK = $(COMPOSE) -f docker-compose.yml $(foreach part,$(filter-out demo,$(WITH)),-f compose.$(part).yml) $(addprefix --profile ,$(filter demo,$(WITH)))
PASSWORD := secrets/grafana_admin_password

.DEFAULT_GOAL := help
.PHONY: help demo demo-serve stack-up stack-down stack-smoke test test-stack check lint types format lock lock-check test-matrix coverage bench docs build clean dashboards

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(READY) ## the demo shop under load for 20 seconds, and what telemetry says about it
	@$(RUN) -m demo

demo-serve: $(READY) ## the demo shop, running until Ctrl+C
	@$(RUN) -m demo serve

stack-up: $(READY) $(PASSWORD) ## collector, Jaeger, Prometheus, Alertmanager, Grafana (WITH="demo persistent", WITH=jaeger-only)
	$(STACK) up --detach --wait
	@$(RUN) -m otel_fastperf.cli.stack.smoke $(if $(filter demo,$(WITH)),--app shop)

stack-smoke: $(READY) ## does the running stack work? sends a trace, finds it, prints the addresses
	@$(RUN) -m otel_fastperf.cli.stack.smoke $(if $(filter demo,$(WITH)),--app shop)

stack-down: $(READY) ## stop the stack; its data stays (ARGS=--volumes: that too)
	$(COMPOSE) -f docker-compose.yml -f compose.persistent.yml --profile "*" down --remove-orphans $(ARGS)

# Grafana reads it as another user: the folder is what keeps others out.
$(PASSWORD):
	@chmod 700 secrets
	@umask 022 && head -c 24 /dev/urandom | base64 | tr -d '\n' > $@
	@echo "Grafana's password, for admin, is new, and in $@."

test: $(READY) ## the test suite (TESTS="tests/test_settings.py -k endpoint" for a part)
	$(RUN) -m pytest $(TESTS)

test-stack: $(READY) ## the shipped stack, run by real servers that are built once (needs Go; TESTS= for a part)
	$(RUN) -m tools.servers
	$(RUN) -m pytest $(or $(TESTS),tests/deploy)

check: lint types lock-check test ## all that CI checks, but for the matrix

lint: $(READY) ## ruff: rules and format
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

types: $(READY) ## mypy, strict
	$(RUN) -m mypy

format: $(READY) ## ruff: mend what it can, and format
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

lock: $(READY) ## newest versions into requirements.lock
	$(RUN) -m tools.lock --upgrade

lock-check: $(READY) ## is requirements.lock what pyproject.toml asks for?
	$(RUN) -m tools.lock --check

test-matrix: $(READY) ## the suite on the oldest, newest and most telling versions (ENVS="oldest newest" for a part)
	$(RUN) -m tools.matrix $(ENVS) $(if $(TESTS),-- $(TESTS))

coverage: $(READY) ## the test suite with branch coverage
	$(RUN) -m coverage run -m pytest $(TESTS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report

bench: $(READY) ## what telemetry costs, against the alternatives
	$(RUN) -m benchmarks

docs: $(READY) ## the generated pages: settings, metrics
	$(RUN) -m docs.generate

dashboards: $(READY) ## grafana/dashboards/*.json, from tools/dashboards
	$(RUN) -m tools.dashboards

build: $(READY) ## wheel and sdist into dist/
	$(RUN) -m hatchling build

clean: ## all that the other targets made
	rm -rf .venv .venvs dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-build-isolation: what builds the package is in the lock too.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv found. Debian, Ubuntu: apt-get install python3-venv. Else: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version), once; this takes about a minute."
	@$(PYTHON) -m venv --clear .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
