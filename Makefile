# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv and install what they need.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test docs lint types contracts unit coverage e2e install clean

demo: $(VENV)/installed
	$(BIN)/ranksieve demo $(ARGS)

# The end-to-end tests mostly wait, for processes of their own: they run beside the others. These give way to them, since
# Ray's workers are as nice as 15, and would starve beside others; on a busy machine they do, hence the timeout.
test: lint types contracts
	$(MAKE) --jobs=2 --output-sync=target unit e2e

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

unit: $(VENV)/installed-dev $(VENV)/postgres $(VENV)/chromium
	nice -n 19 $(BIN)/pytest --ignore=tests/e2e --numprocesses=2 --dist=loadfile --durations=15 $(ARGS)

# Apart from `make test`: to count lines as they run takes half as long again as to run them.
coverage: override ARGS += --cov --cov-report=term --cov-fail-under=90
coverage: unit

e2e: $(VENV)/installed-dev
	$(BIN)/pytest tests/e2e --timeout=1800 --durations=15 $(ARGS)

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
