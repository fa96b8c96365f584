# Every target sets up what it needs: Python >= 3.11 and make are enough. `make help` lists the targets.
# Packages come from the index that pip is configured to use (pip.conf, PIP_INDEX_URL).

# The first interpreter that starts, is new enough and can create environments (Debian: python3-venv).
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3 python; do \
	$$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done)
RUN := .venv/bin/python
READY := .venv/.ready

# Arguments for pytest (TESTS="tests/test_settings.py -k endpoint"), and its number of processes (JOBS).
TESTS ?=
JOBS ?= $(if $(TESTS),0,2)
# A worker that crashes is a fault by itself; with its tests redistributed, pytest-xdist waits for ever.
PYTEST := $(RUN) -m pytest --dist loadgroup --max-worker-restart 0

# Environments of the matrix (ENVS="oldest newest").
ENVS ?=

# Overlays of the stack: demo, persistent, logs, tail-sampling, jaeger-only (WITH="demo persistent logs").
WITH ?=
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo .venv/bin/docker-compose)
STACK = $(COMPOSE) -f docker-compose.yml $(foreach part,$(WITH),-f compose.$(part).yml)
PASSWORD := secrets/grafana_admin_password

.DEFAULT_GOAL := help
.PHONY: help demo demo-serve kubernetes stack-up stack-down stack-smoke test truth test-stack servers test-matrix test-guests test-package check lint types format \
	lock lock-check coverage bench bench-check docs dashboards build clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

demo: $(READY) ## run the demo shop under load for 30 seconds, then print its report
	@$(RUN) -m demo

demo-serve: $(READY) ## run the demo shop until Ctrl+C
	@$(RUN) -m demo serve

stack-up: $(READY) $(PASSWORD) ## start collector, Jaeger, Prometheus, Alertmanager, Grafana (WITH="demo persistent", WITH=jaeger-only)
	$(STACK) up --detach --wait
	@$(RUN) -m otel_fastperf.cli.stack.smoke $(if $(filter demo,$(WITH)),--app shop)

stack-smoke: $(READY) ## check the running stack: send a trace, find it, print the addresses
	@$(RUN) -m otel_fastperf.cli.stack.smoke $(if $(filter demo,$(WITH)),--app shop)

stack-down: $(READY) ## stop the stack and keep its data (ARGS=--volumes deletes it)
	$(COMPOSE) -f docker-compose.yml -f compose.demo.yml -f compose.persistent.yml down --remove-orphans $(ARGS)

# Grafana reads the file as another user, so the folder keeps others out.
$(PASSWORD):
	@chmod 700 secrets
	@umask 022 && head -c 24 /dev/urandom | base64 | tr -d '\n' > $@
	@echo "Created the password of Grafana's user admin: $@"

test: $(READY) ## run the test suite (TESTS="tests/test_settings.py -k endpoint" for a part, JOBS=0 in one process)
	$(PYTEST) --numprocesses=$(JOBS) $(TESTS)

truth: $(READY) ## run small real services, faulty and healthy; is what the doctor says true? (ARGS="--quick --busy lazy*")
	$(RUN) -m tests.truth $(ARGS)

servers: $(READY) ## build the real servers of the shipped stack, each once (needs Go)
	$(RUN) -m tools.servers

test-stack: servers ## run the shipped stack with real servers, which are built once (needs Go; TESTS= for a part)
	$(PYTEST) --numprocesses=$(JOBS) $(or $(TESTS),tests/deploy)

test-matrix: $(READY) ## run the suite on the oldest, the newest and some versions between (ENVS="oldest newest" for a part)
	$(RUN) -m nox $(if $(ENVS),--session $(ENVS),--tags matrix) $(if $(TESTS),-- $(TESTS))

test-guests: $(READY) ## run the test suites of FastAPI, Starlette, SQLModel, SQLAlchemy with telemetry on (GUESTS="starlette")
	$(RUN) -m nox --session guests -- $(GUESTS)

test-package: $(READY) build ## install the wheel into an empty environment; check what it declares, imports and costs
	$(RUN) -m nox --session package

check: lint types lock-check test test-package ## everything that CI checks, except the matrix and the stack

lint: $(READY) ## check the rules (ruff), the format (ruff) and the layers (import-linter)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	.venv/bin/lint-imports

# basedpyright looks for the interpreter, and so for the dependencies, on the PATH. --verifytypes fails below 100 %.
types: $(READY) ## check the types: mypy (strict); basedpyright for the public API, all of which has written types
	$(RUN) -m mypy
	export PATH="$(CURDIR)/.venv/bin:$$PATH" && basedpyright && basedpyright --verifytypes otel_fastperf --ignoreexternal

format: $(READY) ## fix and format with ruff
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

lock: $(READY) ## write the newest versions into requirements.lock (ARGS=--quiet keeps those that still fit)
	$(RUN) -m nox --session lock -- $(or $(ARGS),--upgrade)

lock-check: $(READY) ## check that requirements.lock matches pyproject.toml
	$(RUN) -m nox --session lock-check

coverage: $(READY) ## run the test suite with branch coverage
	$(RUN) -m coverage run -m pytest $(TESTS)
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report $(if $(TESTS),--fail-under=0)

bench: $(READY) ## measure the cost of telemetry and of the alternatives
	$(RUN) -m benchmarks

bench-check: $(READY) ## measure for a minute; fail if telemetry costs 1.5 times what benchmarks/figures.py says
	$(RUN) -m benchmarks.guard

docs: $(READY) ## write the generated pages: settings, metrics, the layers in CONTRIBUTING.md, docs/semconv
	$(RUN) -m docs.generate

dashboards: $(READY) ## write grafana/dashboards/*.json from tools/dashboards
	$(RUN) -m tools.dashboards

kubernetes: $(READY) ## write deploy/kubernetes/monitoring/rules from deploy/prometheus/rules
	@$(RUN) -m tools.prometheus_rules

build: $(READY) ## build wheel and sdist into dist/, and check that a package index accepts them
	rm -rf dist
	$(RUN) -m hatchling build
	$(RUN) -m twine check --strict dist/*

clean: ## delete everything that the other targets created
	rm -rf .venv .nox dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --no-build-isolation: the lock contains the build backend.
$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 with venv found. Debian, Ubuntu: apt-get install python3-venv. Else: make PYTHON=/path/to/python3"; exit 1; }
	@echo "Setting up .venv with $$($(PYTHON) --version), once; this takes about a minute."
	@$(PYTHON) -m venv --clear .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
