# Set-up, training of the main job, and tests. Everything is installed into .venv at the versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup train test test-envpool check docs bench format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "nerveX needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,video,atari,mujoco,lz4,offline,s3,docs]'
	@touch $@

train: setup
	$(BIN)/nervex train cartpole_dqn

test: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu and not ray and not envpool"

test-envpool: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[envpool]'
	$(BIN)/python -m pytest -m envpool

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not gpu and not ray and not envpool and not package and not learning"

# The site: docs/_build/html/index.html. A warning is an error.
docs: setup
	$(BIN)/python -m sphinx -W --keep-going -q -j auto -c docs . docs/_build/html

# Measures nerveX beside other libraries (benchmarks/README.md); hours. `make bench BENCH=--quick` tries all of it once.
bench: setup
	$(BIN)/python benchmarks/run_peers.py $(BENCH)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist docs/_build docs/api *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
