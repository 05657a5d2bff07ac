# Set-up, checks, benchmarks and the service on this machine: `make demo`, `make test`, `make up`.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$python && break; \
done)
PORT ?= 8000
DATA ?= .trainyard

BIN := .venv/bin
INSTALLED := .venv/installed
BENCH_INSTALLED := .venv/bench-installed
MLFLOW := .venv/mlflow
MLFLOW_INSTALLED := $(MLFLOW)/installed
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --no-header

.PHONY: install demo test check up servers bench-training bench-api bench-queue soak mutate-faults lock clean
.DELETE_ON_ERROR:

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements/uv.txt requirements/dev.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 with its venv module is needed (Debian: apt-get install python3-venv); name one with PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: install
	@exec $(BIN)/python -m local demo

test: install
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m local check-migrations
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.hosts.yml docker-compose.worker.yml

up: install
	@exec $(BIN)/python -m local up --port $(PORT) --data-dir "$(DATA)" $(if $(SLOTS),--slots $(SLOTS))

# Database and broker alone, to restore a backup: docs/operations.md.
servers: install
	@exec $(BIN)/python -m local servers --data-dir "$(DATA)"

# Writes docs/performance.md; CIFAR10= names a tree of CIFAR-10, ARGS="--quick" only tries it.
bench-training: $(BENCH_INSTALLED)
	$(BIN)/python -m benchmarks.training $(if $(CIFAR10),--cifar10 "$(CIFAR10)") $(ARGS)

$(BENCH_INSTALLED): $(INSTALLED) requirements/bench.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bench.txt
	@touch $@

# Writes docs/performance.md; MLflow, beside which the API is measured, has an environment of its own.
bench-api: $(MLFLOW_INSTALLED)
	$(BIN)/python -m benchmarks.api $(ARGS)

$(MLFLOW_INSTALLED): $(INSTALLED) requirements/mlflow.txt
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(MLFLOW)
	$(BIN)/uv pip install --quiet --python $(MLFLOW)/bin/python --require-hashes -r requirements/mlflow.txt
	@touch $@

# Writes docs/performance.md; ARGS="--quick" only tries it.
bench-queue: install
	$(BIN)/python -m benchmarks.queue $(ARGS)

# Ten minutes of faults at random; ARGS="--seed N --minutes M" draws the same ones again, or for longer.
soak: install
	PYTHONPATH=tests $(BIN)/python -m harness.soak $(ARGS)

# Each guard taken out of a copy of the source, to see that a test misses it; ARGS='"row lock of every write"' names some.
mutate-faults: install
	PYTHONPATH=tests $(BIN)/python -m harness.mutate $(ARGS)

# The exact versions, after a change of pyproject.toml; `make lock UPGRADE=--upgrade` moves all of them.
lock: install
	echo uv | $(LOCK) $(UPGRADE) - -o requirements/uv.txt
	$(LOCK) $(UPGRADE) --extra worker --extra local --extra dev pyproject.toml -o requirements/dev.txt
	$(LOCK) pyproject.toml -c requirements/dev.txt -o requirements/api.txt
	$(LOCK) --extra worker pyproject.toml -c requirements/dev.txt -o requirements/worker.txt
	$(LOCK) --extra bench pyproject.toml -c requirements/dev.txt -o requirements/bench.txt
	printf '%s\n' 'mlflow>=3.17,<4' psycopg2-binary 'uvicorn[standard]' | $(LOCK) $(UPGRADE) - -o requirements/mlflow.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
