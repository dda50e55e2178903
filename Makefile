# make demo   builds and benches the reference checkpoint and reports on it, offline after the install
# make test   checks style and types, runs every test
# make check  checks style and types, runs the tests that are not marked slow
# make docs   writes docs/cli.md from the command line's own help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := demo
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: demo test check lint fix docs clean

demo: $(VENV)/.demo
	mkdir -p $(DEMO)
	$(BIN)/m2d-export build models/minilm-l6-2d -o $(DEMO)/minilm.m2d --force
	$(BIN)/m2d-export show $(DEMO)/minilm.m2d
	$(BIN)/m2d-export bench $(DEMO)/minilm.m2d -o $(DEMO)/results.jsonl
	$(BIN)/m2d-export report $(DEMO)/results.jsonl -o $(DEMO)/report

test: lint
	$(PYTEST) -m ""

check: lint
	$(PYTEST)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python docs/generate_cli.py --check
	$(BIN)/python -m benchmarks.render --check

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/python docs/generate_cli.py

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info

# torch by itself first: where pip is set up with a local CPU build of this version, that one is taken.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.demo
