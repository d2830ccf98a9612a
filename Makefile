# Two commands on a fresh machine with Python 3.11+: `make demo` and `make test`. Both set themselves up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests of a file share what it has set up; whoever has none left takes some of the other's.
PARALLEL := --numprocesses 2 --dist worksteal
ifndef RUN
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
endif

.PHONY: help demo test test-all lint format bench lock clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

demo: $(VENV)/.ready  ## train the example GPT with 2 workers and say where the report is
	$(BIN)/manyhands train examples/gpt.py --workers 2 --run-dir $(RUN)
	@echo "open $(RUN)/report.html"

test: $(VENV)/.ready  ## the whole suite but for what is marked slow
	$(BIN)/python -m pytest $(PARALLEL) --durations=25

test-all: $(VENV)/.ready  ## the slow tests too, and every process started as a user starts it
	MANYHANDS_COLD=1 $(BIN)/python -m pytest $(PARALLEL) -m ""

lint: $(VENV)/.ready  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check

format: $(VENV)/.ready  ## mend style and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.ready  ## all benchmarks; several hours on 2 quiet cores
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/train_vs_ddp.py
	$(BIN)/python benchmarks/state_cost.py
	$(BIN)/python benchmarks/proof.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/collectives.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/sync.py
	$(BIN)/python benchmarks/migration.py
	$(BIN)/python benchmarks/consolidation.py
	$(BIN)/python benchmarks/multiplex.py
	$(BIN)/python benchmarks/simulator.py
	$(BIN)/python benchmarks/ray_recovery.py
	PYTHON=$(BIN)/python sh benchmarks/gpu/run.sh

lock: $(VENV)/.ready  ## pin what is installed now
	(head -1 requirements-dev.lock; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//') > requirements-dev.lock.new
	mv requirements-dev.lock.new requirements-dev.lock

$(VENV)/.ready: requirements-dev.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "manyhands needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

clean:  ## everything that make made
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
