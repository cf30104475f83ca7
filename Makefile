# Each target makes what it needs: on a machine with Python 3.11 or later (with venv) and make, `make test` is enough.
#   LOCK=requirements/dev.lock   the pinned and hashed set that is installed; LOCK= resolves from the ranges of pyproject.toml
#   PYTHON=python3.12            the interpreter to build the environment with; by default the first that runs and qualifies
#   WORKERS=1            how many processes the tests run in: more than cores, since most of them wait most of the time

.DEFAULT_GOAL := help
SHELL := /bin/sh
LOCK ?= requirements/dev.lock
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 3
ROUNDS ?= 5
LANGFLOW := .venv-langflow/.installed
NODE := tests/node/node_modules/.installed
override TEXT := $(value TEXT)
export TEXT

.PHONY: help demo up test test-unit test-langflow check bench bench-langflow lock clean

help:
	@echo "make demo [TEXT=...]  the whole story in under a minute: submit, stream, lose the runner, ask a person, complete"
	@echo "make up               a server with everything in it on this machine, data under .perdure/, until Ctrl-C"
	@echo "make test             every layer of tests (with node and npm also those of AG-UI's client); make test-unit: the pure ones, in seconds"
	@echo "make test-langflow    the tests of Langflow flow files, in an environment of their own with lfx (0.9 GB, once)"
	@echo "make chaos [ROUNDS=5] the storms again and again, each with a new seed: everything is killed while jobs run and are followed"
	@echo "make check            ruff, mypy, locks against ranges, the wheel in a clean environment"
	@echo "make bench [ONLY=...]  the figures of this machine, one JSON line each; exit 1 when one misses what it is to reach"
	@echo "make bench-langflow   those of Langflow flow files, in their environment"
	@echo "make lock             resolve requirements/*.lock anew; make clean: remove what was built (not .perdure/)"

$(STAMP): pyproject.toml $(LOCK)
	@python=; for candidate in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14 python; do \
	  if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	    python=$$candidate; break; fi; done; \
	if [ -z "$$python" ]; then \
	  echo "perdure needs Python 3.11 or later with its venv module (Debian: apt-get install python3-venv); none runs here." >&2; \
	  exit 1; fi; \
	echo "building .venv with $$("$$python" --version) (the first time this downloads some 100 MB)"; "$$python" -m venv .venv
ifeq ($(strip $(LOCK)),)
	@$(BIN)/python -m pip install --quiet -e '.[dev]'
else
	@$(BIN)/python -m pip install --quiet --require-hashes -r $(LOCK)
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
endif
	@touch $@

demo: $(STAMP)
	@$(BIN)/perdure demo $${TEXT:+--text="$$TEXT"}

up: $(STAMP)
	@$(BIN)/perdure up

# The unmodified client of AG-UI. Without npm the tests that need it say so and are skipped.
$(NODE): tests/node/package.json tests/node/package-lock.json
	@if ! command -v npm >/dev/null; then echo "no npm: the tests under node will be skipped (Debian: apt-get install nodejs npm)"; \
	elif (cd tests/node && npm ci --silent); then touch $@; else echo "npm ci failed: the tests under node will be skipped"; fi

test: $(STAMP) $(NODE)
	$(BIN)/python -m pytest -ra -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-unit: $(STAMP)
	$(BIN)/python -m pytest -ra tests/unit tests/test_architecture.py

# lfx wants older versions of some packages than those that dev.lock pins, so it lives in an environment of its own.
$(LANGFLOW): pyproject.toml requirements/langflow.lock $(STAMP)
	@echo "building .venv-langflow (the first time this downloads some 300 MB)"; $(BIN)/python -m venv .venv-langflow
	@.venv-langflow/bin/python -m pip install --quiet --require-hashes -r requirements/langflow.lock
	@.venv-langflow/bin/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

test-langflow: $(LANGFLOW)  # LANGFLOW_EVERY_CUT=1: kill after every event, not after some
	.venv-langflow/bin/python -m pytest -ra tests/langflow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/check_locks.py
	$(BIN)/python .ci/check_wheel.py

chaos: $(STAMP)
	@for round in $$(seq $(ROUNDS)); do echo "round $$round"; $(BIN)/python -m pytest -q tests/faults/test_follow_storm.py \
	  tests/faults/test_graph_storm.py tests/faults/test_kill_each.py || exit 1; done

bench: $(STAMP)
	$(BIN)/python -m benchmarks $(ONLY)

bench-langflow: $(LANGFLOW)
	.venv-langflow/bin/python -m benchmarks langflow_jobs_per_s,langflow_submit_to_done_p50_ms

# The environment's own package sources stay out of the files: versions and hashes, no host, no path of a machine.
COMPILE = env -u UV_FIND_LINKS -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_EXTRA_INDEX_URL UV_NO_CONFIG=1 \
  $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade

lock: $(STAMP)
	$(COMPILE) pyproject.toml --extra dev --output-file requirements/dev.lock
	$(COMPILE) pyproject.toml --constraints requirements/dev.lock --output-file requirements/base.lock
	$(COMPILE) pyproject.toml --extra dev --extra langflow --output-file requirements/langflow.lock
	echo hatchling | $(COMPILE) - --constraints requirements/dev.lock --output-file requirements/build.lock
	$(BIN)/python .ci/check_locks.py

clean:
	rm -rf .venv .venv-langflow tests/node/node_modules dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find shared services tests migrations -type d -name __pycache__ -prune -exec rm -rf {} +
