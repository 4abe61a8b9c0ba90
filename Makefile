# make sudoku      trains and evaluates DiFFPO on 4x4 Sudoku; what it writes is in runs/sudoku
# make test        the whole test suite, slow tests included
# make lint        style, format and the direction of imports
# make clean-venv  removes .venv, for example to make it with another Python
#
# The first three make .venv, and bring it up to date where requirements.txt or pyproject.toml is
# newer.  PYTHON names the interpreter .venv is made with: make test PYTHON=python3.12
# TORCH=1 also installs PyTorch; tests that need it are skipped without it.

PYTHON ?= python3
TORCH ?=

comma := ,
VENV := .venv
BIN := $(VENV)/bin
# -qq: errors are shown, progress and warnings are not.
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input install \
	--root-user-action=ignore
WITH_TORCH := $(filter 1,$(TORCH))
TEST_EXTRAS := test$(if $(WITH_TORCH),$(comma)torch)
# Each file in .venv stands for a finished step of its making.
MADE := $(VENV)/.made
RUN := $(VENV)/.requirements
TEST := $(VENV)/.test$(if $(WITH_TORCH),-torch)

.PHONY: help sudoku test lint clean-venv

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

sudoku: $(RUN)
	$(BIN)/python -m diffpo_jax.main --config=configs/sudoku.py --workdir=runs/sudoku

test: $(TEST)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests

lint: $(TEST)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

clean-venv:
	rm -rf $(VENV)

# The version is looked at before anything is written.
$(MADE):
	@version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
	  || version='not found'; \
	case "$$version" in \
	  3.1[1-9] | 3.[2-9][0-9] | [4-9].*) ;; \
	  *) echo "diffpo_jax needs Python 3.11 or newer, and $(PYTHON) is $$version:" \
	    "name another, as in: make $(firstword $(MAKECMDGOALS)) PYTHON=python3.12" >&2; \
	    exit 1 ;; \
	esac; \
	echo "Making $(VENV) with Python $$version."
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUN): requirements.txt pyproject.toml | $(MADE)
	@echo "Installing requirements.txt into $(VENV): some minutes the first time."
	@$(INSTALL) -r requirements.txt
	@touch $@

$(TEST): requirements.txt pyproject.toml | $(RUN)
	@echo "Installing the extras [$(TEST_EXTRAS)] into $(VENV)."
	@$(INSTALL) -e '.[$(TEST_EXTRAS)]'
	@touch $@
