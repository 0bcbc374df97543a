# Everything a fresh machine needs is here: Python 3.11-3.13 and make are enough.
#   make demo    install, then one night on real data
#   make test    install with the test tools, then every test
#   make check   format, lint, types, import layers, fast tests
#   make coverage   how much of lstm and data the fast tests cover: 90 % at least
#   make bench   how fast it is, beside what you would pick instead

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log
PEER_VENVS := .venv-bench
PEERS := keras-tensorflow keras-jax darts neuralforecast $(if $(shell command -v nvidia-smi),keras-jax-cuda)
SOURCES := pyproject.toml constraints.txt $(wildcard lstm/kernels/cpu/*)

# One torch thread a process: the tests train many small models, and a barrier costs more than it gives.
export OMP_NUM_THREADS ?= 1
export DO_NOT_TRACK = true
# Whatever the environment says: otherwise each process that a test starts would compile the project anew.
export PYTHONDONTWRITEBYTECODE =

# Three processes share the tests: while one waits for a server, the others have two cores. tests/conftest.py says
# which stay together, and the longest start first.
PYTEST := $(BIN)/python -m pytest -n 3

.PHONY: demo test coverage bench check format clean

demo: $(VENV)/.demo
	@$(BIN)/nightcast demo

test: $(VENV)/.dev
	@$(PYTEST)

# Apart from `test`: tracing takes as long as the tests themselves.
coverage: $(VENV)/.dev
	@$(PYTEST) -m "not slow and not postgres" --cov --cov-report=term:skip-covered --cov-fail-under=90

# Some of them, by name: make bench BENCHMARKS="seed forecast"
bench: $(VENV)/.demo $(PEERS:%=$(PEER_VENVS)/%/.ready)
	@$(BIN)/python -m benchmarks $(BENCHMARKS) --json benchmarks/results.json

check: $(VENV)/.dev
	@$(BIN)/ruff format --check --quiet . || { echo "Formatting differs: make format"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@PYTHONPATH=. $(BIN)/lint-imports --no-logo > $(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; }
	@$(PYTEST) -m "not slow and not postgres"

format: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

clean:
	rm -rf $(VENV) $(PEER_VENVS) .nightcast .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 14) and f"Nightcast needs Python 3.11 to 3.13; this one is {v[0]}.{v[1]}. Name another: make demo PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV) || { echo "Python cannot make a virtual environment; on Debian and Ubuntu install python3-venv"; rm -rf $(VENV); exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.python $(SOURCES)
	@$(call install,.)
	@touch $@

$(VENV)/.dev: $(VENV)/.python $(SOURCES)
	@$(call install,.[dev])
	@touch $@ $(VENV)/.demo

# A peer's dependencies conflict with ours and with each other's: an environment each.
$(PEER_VENVS)/%/.ready: benchmarks/peers/%.txt
	@echo "Installing $* into $(@D) (a few minutes the first time) ..."
	@$(PYTHON) -m venv --clear $(@D)
	@$(@D)/bin/python -m pip install --disable-pip-version-check -r $< > $(@D)/install.log 2>&1 \
	  || { tail -n 30 $(@D)/install.log; echo "The install failed; the whole log is $(@D)/install.log"; exit 1; }
	@touch $@

# Quiet about what went well; on a failure, the log's end.
define install
echo "Installing $(1) into $(VENV) (a few minutes the first time) ..."; \
$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '$(1)' > $(LOG) 2>&1 \
  || { tail -n 30 $(LOG); echo "The install failed; the whole log is $(LOG)"; exit 1; }
endef
