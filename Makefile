# Every target works on a fresh machine: it makes .venv and installs what is missing, once.
# Another Python, or another requirement for torch:  make test PYTHON=python3.12 TORCH=torch==2.13.0

PYTHON ?= python3
TORCH  ?= torch
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
WHEEL_VENV  := build/wheel-venv

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow lint format cards bench wheel

help:           ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(STAMP)  ## make .venv and install the package into it, editable

# torch comes first and alone, so that the constraint picks its build and nothing later pulls another one.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) -c constraints.txt
	$(BIN)/python -m pip install --quiet -e ".[dev]" -c constraints.txt
	touch $@

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[bench]" -c constraints.txt
	touch $@

demo: $(STAMP)  ## train and measure the first result, minutes on two cores
	$(BIN)/hf-tasks run addition-extrapolation --preset cpu

# One thread a worker: two workers with all cores each are slower than one.
test: $(STAMP)  ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-slow: $(STAMP)  ## the tests that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

lint: $(STAMP)  ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(STAMP)  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

cards: $(STAMP)  ## render the committed cards anew
	$(BIN)/python -m model_cards.render

bench: $(BENCH_STAMP)  ## speed, side by side with peers
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.publishing
	$(BIN)/python -m benchmarks.lego
	$(BIN)/python -m benchmarks.callback
	$(BIN)/python -m benchmarks.corpora
	$(BIN)/python -m benchmarks.models
	$(BIN)/python -m benchmarks.trainer
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.costs
	$(BIN)/python -m benchmarks.utilization

# From another folder, so that the installed package is what answers and not the tree.
wheel: $(STAMP)  ## build the wheel, install it into a venv of its own, run a smoke from it
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip install --quiet $(TORCH) -c constraints.txt
	$(WHEEL_VENV)/bin/python -m pip install --quiet dist/*.whl -c constraints.txt
	root=$$PWD && cd $$(mktemp -d) && bin=$$root/$(WHEEL_VENV)/bin \
		&& $$bin/hf-tasks list tasks \
		&& $$bin/hf-tasks list recipes \
		&& $$bin/hf-tasks generate addition --split test --size 100 --seed 0 --output addition \
		&& $$bin/python -c "from datasets import load_dataset; print(load_dataset('addition')['test'][0])"
