# One command each: `make demo` shows the mesh at work, `make test` proves it.
# Everything is installed into .venv from hash-locked files; PYTHON names the interpreter that makes it (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Runs side by side each keep their temporary files to themselves: one that removes another's old ones fails at its end.
PYTEST = mkdir -p .pytest_tmp/$@ && PYTEST_DEBUG_TEMPROOT=.pytest_tmp/$@ $(BIN)/pytest -q
REQUESTS ?=
SPEED ?=
REPORT ?= demo-report.json
SEED ?= 7
COUNT ?= 2000
KEEP ?=
MINUTES ?=
FUZZ_SECONDS ?= 60
FUZZED := smpp smtp http openapi parsers
STAGE ?=
ROUNDS ?= 3

.DEFAULT_GOAL := help
.PHONY: help demo faults bench scale up test lint offline unit mesh fuzz contract format lock clean

help: ## List the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.demo ## Start the mesh and replay requests (REQUESTS=FILE SPEED=N REPORT=FILE SEED=N COUNT=N KEEP=1)
	@$(BIN)/guichet replay $(REQUESTS) --report $(REPORT) --seed $(SEED) --count $(COUNT) \
		$(if $(SPEED),--speed $(SPEED)) $(if $(KEEP),--keep)

faults: $(VENV)/.demo ## Put the mesh under faults and check its promise (SEED=N MINUTES=N REPORT=FILE SPEED=N)
	@$(BIN)/guichet faults --seed $(SEED) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SPEED),--speed $(SPEED)) \
		$(if $(filter file,$(origin REPORT)),,--report $(REPORT))

bench: $(VENV)/.demo ## Measure the mesh beside its peers (STAGE=NAME ROUNDS=N REPORT=FILE)
	@$(BIN)/python -m benchmarks --rounds $(ROUNDS) $(if $(STAGE),--stage $(STAGE)) \
		$(if $(filter file,$(origin REPORT)),,--report $(REPORT))

scale: $(VENV)/.demo ## Measure what a request costs, and write docs/scaling.md's tables anew (as root; ROUNDS=N)
	@$(BIN)/python -m benchmarks.scale --rounds $(ROUNDS) --report benchmarks/scale.json --document docs/scaling.md

up: $(VENV)/.demo ## Start the mesh on this machine and leave it running until Ctrl-C
	@$(BIN)/guichet up

# Real parts are waited for, most of the time: what needs none, and the fuzzing, run beside them.
test: lint ## Everything: style, types, architecture, and every test on real parts
	@$(MAKE) --no-print-directory -j2 --output-sync=line mesh offline

offline: unit fuzz

lint: $(VENV)/.dev ## Style, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.dev ## Tests that need no server
	$(PYTEST) tests/unit tests/app tests/states

mesh: $(VENV)/.dev ## Tests on real Kafka, MongoDB protocol, SMSC, SMTP and Prometheus
	$(PYTEST) tests/contract tests/mesh tests/faults

fuzz: $(VENV)/.dev ## What bad input gets at each door, for a minute each (FUZZ_SECONDS=N FUZZ_SEED=N)
	@$(MAKE) --no-print-directory -j3 $(FUZZED:%=fuzz-%)

fuzz-%: $(VENV)/.dev
	@export FUZZ_SECONDS=$(FUZZ_SECONDS); $(PYTEST) tests/fuzz/test_$*.py

contract: $(VENV)/.dev ## Write docs/contract and the dashboards anew from the code
	$(BIN)/python -m shared.contract
	$(BIN)/python -m deploy.grafana

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(VENV)/.dev ## Resolve the dependencies anew (needs uv)
	uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --no-header pyproject.toml --extra dev -o requirements/dev.txt
	uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --no-header pyproject.toml --extra local -c requirements/dev.txt -o requirements/local.txt
	uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --no-header pyproject.toml -c requirements/dev.txt -o requirements/run.txt
	for peer in benchmarks/peers/*/requirements.in; do \
		uv pip compile -q --generate-hashes --no-emit-index-url --universal --python-version 3.11 --no-header $$peer -o $${peer%.in}.txt; done

clean: ## Remove what the commands made
	rm -rf $(VENV) .cache .guichet .mypy_cache .ruff_cache .pytest_cache .pytest_tmp .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one with PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python requirements/local.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/local.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python requirements/dev.txt pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.demo
