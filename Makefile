# Each target sets up what it needs, once; the second call is quick.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready

.PHONY: help install demo up down test test-cluster lint bench crash screenshot clean constraints

help:
	@echo "make demo          set up, start the stack, train, register, promote, predict, roll back; four flavors"
	@echo "make install       set up in $(VENV), start nothing"
	@echo "make up, down      start or stop the stack on this machine"
	@echo "make test          every test, those on real PostgreSQL, MLflow and TorchServe included"
	@echo "make test-cluster  every test on a real Kubernetes control plane (Go builds it once)"
	@echo "make lint          format, lint, types, import contracts"
	@echo "make bench         speed and size, side by side; tables and JSON in bench-results/"
	@echo "make crash         kill at every boundary on the real stack (long)"
	@echo "make screenshot    MLflow's page of a promoted version, as a PNG"
	@echo "make clean         stop the stack and remove what make has made"

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) tools/setup_venv.py $(VENV)
	@touch $(READY)

install: $(READY)

demo: $(READY)
	@$(BIN)/python tools/demo.py

up: $(READY)
	@$(BIN)/modelswitch up

down: $(READY)
	@$(BIN)/modelswitch down

test: $(READY)
	@$(BIN)/python tools/timed.py "make test" $(BIN)/python -m pytest $(ARGS)

test-cluster: $(READY)
	@$(BIN)/python -m tests.cluster.binaries
	@$(BIN)/python tools/timed.py "make test-cluster" $(BIN)/python -m pytest -m cluster \
		-n 2 --dist loadfile tests/cluster $(ARGS)

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)
	@$(BIN)/python -m benchmarks $(ARGS)

crash: $(READY)
	@$(BIN)/python tools/timed.py "make crash" $(BIN)/python -m pytest -m crash_matrix tests/stack $(ARGS)

screenshot: $(READY)
	@$(BIN)/python tools/screenshot.py

constraints: $(READY)
	@$(BIN)/python tools/setup_venv.py --freeze $(VENV) > constraints.txt.new && mv constraints.txt.new constraints.txt

clean:
	@if [ -x $(BIN)/modelswitch ]; then $(BIN)/modelswitch down || true; fi
	rm -rf $(VENV) .modelswitch bench-results build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
