# Everything a newcomer needs, on a machine that has only Python 3.11+ and make. `make` alone lists the targets.

VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS ?= constraints.txt
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c $(CONSTRAINTS)
# The first interpreter that is new enough and can make a virtual environment; `make PYTHON=/path/to/python` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.DEFAULT_GOAL := help
.PHONY: help install demo test check lab docs bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/.installed ## build .venv with everything that develops, tests and documents truestep

demo: $(VENV)/.demo ## train a small CNN twice, weight decay off and on, and write a report (installs little)
	@$(BIN)/truestep demo

test: $(VENV)/.installed ## run the whole suite, doctests and the documentation's examples included
	@$(BIN)/pytest -n 2 -q

check: $(VENV)/.installed ## format, lint, types (pyright, strict) and who may import whom
	@$(BIN)/ruff format --check --quiet . || { echo "to mend: $(BIN)/ruff format ." >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/lint-imports --no-logo

lab: $(VENV)/.installed ## judge every claim again and say what changed against the committed results
	@$(BIN)/truestep lab run

docs: $(VENV)/.installed ## build the documentation; a warning is an error
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.installed ## time what watching costs, watch on against off
	@$(BIN)/python -m benchmarks.bench_watch

clean: ## remove caches and built pages; .venv and run records stay
	@rm -rf docs/_build dist build .pytest_cache .ruff_cache .hypothesis .benchmarks .coverage .import_linter_cache
	@find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Stamps: a second `make` is instant until pyproject.toml or the constraints change.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "truestep needs Python 3.11 or newer with its venv module: install it (Debian: apt-get install python3-venv) or name one: make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.python pyproject.toml $(CONSTRAINTS)
	@echo "installing torch (once; minutes on a slow line)"
	@$(PIP) torch
	@echo "installing truestep with what the demo and the lab need"
	@$(PIP) -e '.[lab]'
	@touch $@

$(VENV)/.installed: $(VENV)/.demo
	@echo "installing what checks, tests and documents it"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps curvlinops-for-pytorch backpack-for-pytorch
	@touch $@
