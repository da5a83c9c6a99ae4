# `make demo` and `make test` set everything up on a fresh machine: nothing but Python 3.10+ and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
# One thread per process: with more, small batched products run several times slower on a shared machine.
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: install demo test test-all test-lowest lint format docs banks release clean

install: $(VENV)/.installed

# An environment made with another Python than the one asked for is made anew.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/.installed 2>/dev/null),$(PYTHON))
CLEAR := --clear
.PHONY: $(VENV)/.installed
endif
endif

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	$(BIN)/python -m pip install -q "pip>=23"
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	@echo $(PYTHON) > $@

demo: install ## The whole chain on a handful of patients of two diseases: runs/demo/report.html
	$(BIN)/medgym-offline demo --output runs/demo

test: install ## All tests but the slow ones
	$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadscope $(PYTEST)

test-all: install ## All tests
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadscope $(PYTEST)

# UV_TORCH_BACKEND=cpu spares the gigabytes of CUDA where PyTorch's own index can be reached.
test-lowest: ## The tests but the slow ones at the lowest versions pyproject.toml declares, in .venv-lowest
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install -q uv
	VIRTUAL_ENV=$(LOWEST) $(LOWEST)/bin/uv pip install -q --resolution lowest-direct -e ".[dev]"
	MEDGYM_LOWEST=1 $(LOWEST)/bin/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadscope $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: install ## The documentation site: runs/site/index.html
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(BIN)/python -m mkdocs build --strict

# Rebuilds what ships under generation/ and datasets/ from the open ICU data, in about an hour on two cores.
CLINICAL ?= $(MEDGYM_CLINICAL_DATA)
banks: install
	$(BIN)/medgym-offline cohort build $(CLINICAL)/mimic-iii-demo-1.4 $(CLINICAL)/mimic-iv-demo-2.2 \
	  --patients 110 --output runs/cohort.parquet
	$(BIN)/medgym-offline simulators fit runs/cohort.parquet --recipe generation/sepsis-v0.toml \
	  --output generation/banks/sepsis-v0.safetensors
	$(BIN)/medgym-offline behavior train --bank sepsis-v0 --scope all --engine process --output runs/behaviors
	$(BIN)/medgym-offline simulators fit runs/cohort.parquet --recipe generation/sepsis-plain-v0.toml \
	  --output generation/banks/sepsis-plain-v0.safetensors
	$(BIN)/python -m medgym_offline.diseases.sepsis.twin_bank
	$(BIN)/python -m medgym_offline.diseases.toy
	$(BIN)/medgym-offline behavior train --bank sepsis-twin-v0 --scope all --engine process --output runs/behaviors --half
	cp runs/behaviors/sepsis-*.safetensors generation/behaviors/
	for id in $$($(BIN)/python -c 'from medgym_offline.datasets import list_recipes; print(*list_recipes())'); do \
	  $(BIN)/medgym-offline generate $$id --release || exit 1; done

release: install ## What is hosted, in dist/: wheel, datasets as on the Hub, policies, entries for lists (docs/release.md)
	$(BIN)/python docs/release.py dist

clean:
	rm -rf $(VENV) $(LOWEST) runs build dist .pytest_cache .mypy_cache .ruff_cache
