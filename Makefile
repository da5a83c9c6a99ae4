# `make demo` and `make test` set everything up on a fresh machine: nothing but Python 3.10+ and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread per process: with more, small batched products run several times slower on a shared machine.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: install demo test test-all lint format banks clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q "pip>=23"
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@touch $@

demo: install ## The whole chain on a handful of patients: runs/demo/report.html
	$(BIN)/medgym-offline demo --output runs/demo

test: install ## All tests but the slow ones
	$(BIN)/python -m pytest -q -m "not slow" $(PYTEST)

test-all: install ## All tests
	$(BIN)/python -m pytest -q $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) runs build dist .pytest_cache .mypy_cache .ruff_cache
