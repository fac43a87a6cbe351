# make fit, make test: both make the environment first, from the package index.
PYTHON ?= python3
BIN := .venv/bin
ENVIRONMENT := .venv/.installed

.PHONY: help fit test test-all lint types docs clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

fit: $(ENVIRONMENT)  ## train LeNet-5 on the embedded digits and evaluate it on the test split
	@$(BIN)/cnntrain fit
	@echo
	@$(BIN)/cnntrain eval run=latest

test: $(ENVIRONMENT) lint types  ## lint, type-check and run the tests, but those marked slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-all: $(ENVIRONMENT) lint types  ## the same with the slow tests, and every case of the fault list
	FAULTS=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m ''

lint: $(ENVIRONMENT)  ## check style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(ENVIRONMENT)  ## check types
	$(BIN)/python -m mypy

docs: $(ENVIRONMENT)  ## build the documentation as a site in site/
	@$(BIN)/python -c 'import mkdocs, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict --quiet

clean:  ## remove the environment and all caches, never runs or data
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build dist site

# Python may be removed or upgraded beneath an environment, and the folder moved: then it is made anew.
ifeq ($(shell $(BIN)/cnntrain --version 2>/dev/null),)
.PHONY: $(ENVIRONMENT)
endif
# What an environment has to do, and the reason to stop where there is none and $(PYTHON) cannot make one.
USABLE = $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
need = $(if $(shell $(USABLE) || $(PYTHON) -c '$(1)' >/dev/null 2>&1 || echo no),$(error PYTHON=$(PYTHON) $(2); name \
another: make PYTHON=python3.12 $(MAKECMDGOALS)))

$(ENVIRONMENT): pyproject.toml
	$(call need,,does not run)
	$(call need,import sys; sys.exit(sys.version_info < (3, 11)),is older than Python 3.11)
	$(call need,import ensurepip,cannot make environments: install $(notdir $(PYTHON))-venv (Debian or Ubuntu))
	@echo "making the environment in .venv, once: pip fetches torch and more, which takes minutes"
	@$(USABLE) || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' \
		|| { echo "the packages are not installed: pip says why above; it needs a network. Again: make $(MAKECMDGOALS)"; exit 2; }
	@touch $@
