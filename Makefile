# A fresh machine needs Python 3.11 or newer and nothing else: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint audit format reliability bench docs clean

# Packages are installed once; a changed dependency list installs again.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[crf]" || echo "pydensecrf needs a C++ compiler: skipped"
	touch $@

$(VENV)/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

demo: $(VENV)/runtime
	$(BIN)/xseg demo demo

test: $(VENV)/ready
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xseg

# Dependencies: declared, pinned, licensed, and without known vulnerabilities as far as the public database can be asked.
audit: $(VENV)/ready
	$(BIN)/python -m pytest -q tests/test_dependencies.py
	$(BIN)/python .ci/audit

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The counts of docs/reliability.md: tests that try a little in `make test` try in full. Takes most of an hour.
reliability: $(VENV)/ready
	$(BIN)/python -m pytest -q -n 2 --dist load --moments 60 --mutants 2000 --images 1000 \
		tests/cli/test_kill_moments.py tests/cli/test_mutants.py tests/cli/test_pipe_memory.py

bench: $(VENV)/ready
	$(BIN)/xseg bench

# The pages of docs/ as a site, in site/.
docs: $(VENV)/ready
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q

clean:
	rm -rf $(VENV) site demo build dist *.egg-info
