# One command each; all that is needed beforehand is Python 3.11 or newer with pip, and make.
# Everything is installed into .venv here, never anywhere else. pip's own settings and variables are honoured; on Linux
# without a GPU, PIP_EXTRA_INDEX_URL set to PyTorch's CPU index saves several GB of download.
#
#   make demo PYTHON=/path/to/python3.12      another Python
#   make test PYTEST_ARGS='-k leak -x'        some of the tests
#   make bench BENCH_ARGS='store crash'       some of the benchmarks

PYTHON ?= $(or $(shell command -v python3.11 || command -v python3),python3.11)
PYTEST_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
, := ,

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test bench gpu lint format wheels clean

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/demo.stamp ## watch four faults being caught beside a real PyTorch server
	@$(BIN)/watchdog demo

test: lint ## format check, lint, types, import contracts, tests
	@$(BIN)/pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

bench: $(VENV)/bench.stamp ## an hour of benchmarks, each figure against its goal; results in benchmarks/results
	@.ci/install-debian prometheus-blackbox-exporter || echo "blackbox_exporter is left out of the comparison"
	@$(BIN)/python -m benchmarks.bench $(BENCH_ARGS)

gpu: $(VENV)/test.stamp ## tests and benchmark that need an NVIDIA GPU; a quarter of an hour on one
	@REQUIRE_GPU=1 $(BIN)/pytest -m gpu $(PYTEST_ARGS); tested=$$?; $(BIN)/python -m benchmarks.bench gpu && exit $$tested

lint: $(VENV)/test.stamp ## everything of `make test` but the tests
	@$(BIN)/ruff format --check
	@$(BIN)/ruff check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/test.stamp ## format the code and mend what ruff can mend
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

wheels: $(VENV)/test.stamp ## build the daemon's and the agent's wheel into dist/
	@rm -rf build packaging/agent/build  # setuptools packs whatever an earlier build left there
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	@$(BIN)/python -m build --wheel --no-isolation --outdir dist packaging/agent
	@rm -rf build packaging/agent/build

clean: ## remove .venv, what was built, and every cache
	@rm -rf $(VENV) build dist packaging/agent/build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -prune -exec rm -rf {} + ; find . -name '*.egg-info' -prune -exec rm -rf {} +

# The stamps are newer than what they were made from, so a second run installs nothing.
# [test] holds all of [demo]: after `make test`, `make demo` starts at once.

# Without ensurepip (Debian's python3 without python3-venv) the outer pip fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	@if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); \
	else $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $@ install -q pip; fi

define install
	@echo "Setting up $(VENV) with .[$(1)]: a minute or two, most of it PyTorch"
	@[ -t 1 ] || quiet="--quiet --quiet"; $(BIN)/python -m pip install $$quiet -c constraints.txt -e '.[$(1)]'
endef

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo)
	@touch $@

$(VENV)/test.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,demo$(,)test)
	@touch $@ $(VENV)/demo.stamp

$(VENV)/bench.stamp: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,bench)
	@touch $@ $(VENV)/demo.stamp $(VENV)/test.stamp
