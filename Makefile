# `make demo` and `make test` work on a fresh machine with Python 3.11 or newer: they build .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs mutants notebooks

demo: .venv/installed
	$(BIN)/mae-cli ablate --axis mask.ratio=0.5,0.75,0.95 --seeds 3 --workers 2 \
	  --probe finetune --set probe.labels=0.1
	$(BIN)/mae-cli report --study ratio

test: .venv/installed
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed # the site, in .site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebooks: .venv/installed
	$(BIN)/python -m analysis.report.run_notebooks

mutants: .venv/installed # all the modules that tests/mutants.py lists, or MODULES="mae/models/vit.py mae/pretext/masking.py"
	$(BIN)/python -m tests.mutants $(MODULES)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
