# SPDX-License-Identifier: Apache-2.0
# Every target does its own set-up. `make help` lists them.

PYTHON := .venv/bin/python
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: help setup demo test unit host lint bench stress fuzz mutate install uninstall clean

help:            ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup:           ## Debian packages, .venv, locked dependencies; a second the next time
	@$(SUDO) packaging/setup

demo: setup      ## a real agent works, is injected, attacks and is stopped
	@$(SUDO) $(PYTHON) -m demo

test: setup      ## unit tests, and host tests against this kernel
	@$(SUDO) $(PYTHON) -m pytest

unit: setup      ## only what needs no root
	@$(PYTHON) -m pytest tests/unit

host: setup      ## only what tests the kernel
	@$(SUDO) $(PYTHON) -m pytest tests/host tests/bypass

lint: setup      ## ruff and mypy --strict, as the tests run them
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

stress: setup    ## what takes too long for `make test`: loads, 1,000 sessions, trees, deaths
	@$(SUDO) $(PYTHON) -m pytest tests/host/test_robust_*.py --stress

SECONDS := 60
fuzz: setup      ## fuzzers, SECONDS=60 for each of their targets
	@[ -d .cache/fuzz/engine/atheris ] || $(PYTHON) -m pip install --quiet --no-deps --require-hashes \
		--target .cache/fuzz/engine --requirement packaging/requirements-fuzz.txt
	@$(PYTHON) -m fuzz --seconds $(SECONDS)

bench: setup     ## what governing costs, side by side with a bare run
	@$(SUDO) $(PYTHON) -m bench

mutate: setup    ## switch each control off in turn: something must notice; half an hour
	@$(SUDO) $(PYTHON) -m mutate

install:         ## commands, systemd unit, man pages, completions, /etc/ri; PREFIX, DESTDIR
	@$(SUDO) packaging/install

uninstall:       ## take away what install put there; /etc/ri and the audit log stay
	@$(SUDO) packaging/install --remove

clean:           ## caches and .venv
	rm -rf .venv .cache .setup-stamp .mypy_cache .ruff_cache .hypothesis bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
