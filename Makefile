# make sudoku      trains and evaluates DiFFPO on 4x4 Sudoku; the results are in runs/sudoku
# make countdown   the same on Countdown, in runs/countdown
# make test        runs the whole test suite, including slow tests
# make lint        checks style, format and the direction of imports
# make clean-venv  removes .venv, for example to make it again with another Python
#
# The first four install diffpo_jax into .venv, again if requirements.txt or pyproject.toml is newer.
# PYTHON chooses the interpreter of .venv: make test PYTHON=python3.12
# TORCH=1 also installs PyTorch; without it the tests that need it are skipped.

PYTHON ?= python3
TORCH ?=

comma := ,
VENV := .venv
BIN := $(VENV)/bin
# -qq: only errors are shown, no progress and no warnings.
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input install \
	--root-user-action=ignore
WITH_TORCH := $(filter 1,$(TORCH))
TEST_EXTRAS := test$(if $(WITH_TORCH),$(comma)torch)
# Each of these files in .venv marks a finished step of the installation.
MADE := $(VENV)/.made
RUN := $(VENV)/.requirements
TEST := $(VENV)/.test$(if $(WITH_TORCH),-torch)

.PHONY: help sudoku countdown test lint clean-venv

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

sudoku countdown: $(RUN)
	$(BIN)/python -m diffpo_jax.main --config=configs/$@.py --workdir=runs/$@

test: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

clean-venv:
	rm -rf $(VENV)

# Checks the version before anything is written.
$(MADE):
	@version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	  || version='not found'; \
	case "$$version" in \
	  3.1[1-9] | 3.[2-9][0-9] | [4-9].*) ;; \
	  *) echo "diffpo_jax needs Python 3.11 or newer, but $(PYTHON) is $$version;" \
	    "choose another: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; \
	    exit 1 ;; \
	esac; \
	echo "Creating $(VENV) with Python $$version."
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUN): requirements.txt pyproject.toml | $(MADE)
	@echo "Installing diffpo_jax into $(VENV); this takes some minutes the first time."
	@$(INSTALL) -e .
	@touch $@

$(TEST): requirements.txt pyproject.toml | $(RUN)
	@echo "Installing the extras [$(TEST_EXTRAS)] into $(VENV)."
	@$(INSTALL) -e '.[$(TEST_EXTRAS)]'
	@touch $@
