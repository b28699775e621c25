# Each target sets up what it needs in .venv by itself; the second time that takes no time.
#   make test ARGS="-k journal"      another python: make test PYTHON=python3.12

PY := .venv/bin/python
BASE := .venv/.installed
DEV := .venv/.installed-dev

# A .venv whose python is gone (a system upgrade, a copied folder) is set up again.
ifneq ($(wildcard .venv),)
ifneq ($(shell $(PY) -c 'print("alive")' 2>/dev/null),alive)
$(shell rm -f $(BASE) $(DEV))
endif
endif

export PYTHON
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench chaos

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(BASE)  ## show the whole way of a commit, in a temporary folder
	@$(PY) -m runner.cli demo $(ARGS)

test: $(DEV)  ## run the tests
	@$(PY) -m pytest -q $(ARGS)

check: $(DEV)  ## lint, formatting and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: $(DEV)  ## measure against the floor of this machine
	@$(PY) -m benchmarks $(ARGS)

chaos: $(DEV)  ## kill the service again and again, and see what is lost (half an hour)
	@$(PY) -m tests.chaos $(ARGS)

setup: $(DEV)  ## only make .venv, with everything for development

$(BASE): pyproject.toml uv.lock
	@sh .ci/venv

$(DEV): pyproject.toml uv.lock
	@sh .ci/venv dev
