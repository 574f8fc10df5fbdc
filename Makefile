# Every target makes .venv/ on first use, installs the locked packages into it and runs
# there. Another interpreter: make test PYTHON=/path/to/python3.12

PYTHON = python3 python3.14 python3.13 python3.12 python3.11
JOBS = 2

BIN := .venv/bin/python
READY := .venv/.installed
READY_PARITY := .venv/.installed-parity
PIP := $(BIN) -m pip install --quiet --disable-pip-version-check
USABLE := import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))

# Nothing is fetched after the installation, and tests mean the CPU.
TEST_ENV := HF_HUB_OFFLINE=1 JAX_PLATFORMS=cpu
PYTEST := $(TEST_ENV) $(BIN) -m pytest
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder
# Most of a test's time is compilation, and most of that LLVM's. Those against torch run
# what users run.
QUICK := --xla_backend_optimization_level=0
EIGHT_DEVICES := $(QUICK) --xla_force_host_platform_device_count=8

# Tests of one file share what is costly to make; files go out as they are listed, the
# many small ones last. A failure in one half does not hide those of the other.
define run_tests
XLA_FLAGS="$(QUICK)" $(PYTEST) $(SPREAD) -m "$(MARK)"; first=$$?; \
XLA_FLAGS="$(EIGHT_DEVICES)" $(PYTEST) tests/multi_device $(SPREAD) -m "$(MARK)" \
  && exit $$first
endef

.DEFAULT_GOAL := help
.PHONY: help install demo test slow check parity paths bench lint format clean

help: ## this list
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:[^#]*## / - /'

install: $(READY) ## make .venv and install the locked packages into it

demo: $(READY) ## a small model answers questions about rooms it has never seen
	$(BIN) -m scripts.demo

test: MARK = not slow and not parity
test: $(READY) ## the tests, without the slow ones and those against torch
	$(run_tests)

slow: MARK = slow and not parity
slow: $(READY) ## the slow tests
	$(run_tests)

check: MARK = not parity
check: $(READY) ## both of these in one go
	$(run_tests)

parity: $(READY_PARITY) ## the tests against torch (installs the extra [parity])
	$(PYTEST) $(SPREAD) -m parity

# The recorded outputs and the torch twins once more, by each way of attention in turn.
PATHS = reference short blockwise
paths: $(READY_PARITY) ## parity with every way of attention (scores of short inputs only)
	for way in $(PATHS); do \
	  VICA_JAX_ATTENTION=$$way $(PYTEST) $(SPREAD) tests/parity tests/eval/test_golden.py \
	    tests/decode/test_session.py -k "not bench_cases" || exit 1; \
	done

bench: $(READY_PARITY) ## speed and memory beside torch, smaller inputs (minutes)
	$(TEST_ENV) $(BIN) -m scripts.bench --reduced --pairs=3

lint: $(READY) ## ruff and pyright
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m pyright

format: $(READY) ## let ruff rewrite the files
	$(BIN) -m ruff check --fix
	$(BIN) -m ruff format

clean: ## remove caches and what the demo wrote (not .venv)
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist demo
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@if ! $(BIN) -c '$(USABLE)' 2>/dev/null; then \
	  for candidate in $(PYTHON); do \
	    if "$$candidate" -c '$(USABLE)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "No usable Python: none of '$(PYTHON)' is Python 3.11 or later with the" \
	      "venv module (on Debian: apt install python3-venv). Install one, or name" \
	      "it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	  fi; \
	  echo "Making .venv with $$found"; \
	  "$$found" -m venv --clear .venv; \
	fi
	@echo "Installing the packages of requirements.lock into .venv (minutes, once)"
	@$(PIP) --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(READY_PARITY): $(READY) requirements-parity.lock
	@echo "Installing torch into .venv (minutes, once)"
	@$(PIP) --requirement requirements-parity.lock
	@touch $@
