# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo evidence test test-all docs lint types contracts pytest coverage install clean

demo: $(VENV)/installed
	$(BIN)/ranksieve demo $(ARGS)

# One question about all tasks of tests/benchmarks/tasks, e.g. `make evidence Q=sizes ARGS='--tasks movies --seeds 0'`.
evidence: $(VENV)/installed-dev
	$(BIN)/python tests/benchmarks/tasks/fetch.py .ranksieve/evidence
	$(BIN)/python tests/benchmarks/evidence.py $(Q) $(ARGS)

test: lint types contracts pytest

# Kill campaigns, hostile inputs, every architecture in depth, more random examples, searches by benchmarks, all steps on
# the real model.
test-all: lint types contracts
	$(MAKE) pytest CAMPAIGN=1

install: $(VENV)/installed-dev

docs: $(VENV)/installed
	$(BIN)/ranksieve docs --output api/reference/pages

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

contracts: $(VENV)/installed-dev
	$(BIN)/lint-imports

pytest: $(VENV)/installed-dev $(VENV)/postgres $(VENV)/chromium
	$(BIN)/pytest $(if $(CAMPAIGN),--hypothesis-profile=campaign,-m "not campaign") --numprocesses=2 --dist=worksteal --durations=15 $(ARGS)

# Apart from `make test`: counting lines takes half as long again.
coverage: override ARGS += --ignore=tests/e2e --cov --cov-report=term --cov-fail-under=90
coverage: pytest

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; } # half of one would be taken for whole

$(VENV)/installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/installed

# Debian's PostgreSQL server and browser, for the tests alone. Where they cannot be had, those say so and do without.
$(VENV)/postgres: | $(VENV)/bin/python
	-tests/download_debian.sh $@ postgres postgresql 'postgresql-[0-9]|lib'

$(VENV)/chromium: | $(VENV)/bin/python
	-tests/download_debian.sh $@ chromium-headless-shell chromium-headless-shell 'chromium|lib|font'

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
