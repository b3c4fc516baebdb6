# Every target does its own set-up: `make demo` on a fresh clone installs first, and later calls find it done.
#
#   make install                      PyPI's torch (CUDA on Linux)
#   make install TORCH_INDEX=<url>    torch and torchvision from an index you name (a CPU build); remembered in .venv
#   make install PYTHON=python3.12    another interpreter

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?=
NML_RAY := .venv/bin/nml-ray
STAMP := .venv/.installed
CHOSEN_INDEX := $(shell cat .venv/torch-index 2>/dev/null)
TORCH_INDEX ?= $(CHOSEN_INDEX)
ifneq ($(TORCH_INDEX),$(CHOSEN_INDEX))
FORCE_INSTALL := FORCE
endif
SIZE_CUDA := about 3.3 GB to download and 6.7 GB on disk, 5.3 GB of it torch with CUDA (README: a CPU build)
SIZE_CPU := about 0.6 GB to download and 2 GB on disk
# renamed first, so that an interrupted removal leaves no half of an environment
REMOVE_VENV := rm -rf .venv.old; mv .venv .venv.old; rm -rf .venv.old

PYTEST := .venv/bin/python -m pytest
CLUSTERS := netns or slurm
HEAVY := browser or slow or kill or $(CLUSTERS)

.PHONY: help install demo lint test-fast test test-heavy test-clusters test-kills test-all docs lock clean distclean FORCE

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | sort | expand -t 14

install: $(STAMP) ## make .venv with the locked versions (TORCH_INDEX=<url> for a CPU build of torch)

demo: $(STAMP) ## the whole study on real icons; ends with where the report lies
	@$(NML_RAY) run jobs/demo.yaml

lint: $(STAMP) ## ruff and mypy
	@.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --num-workers auto

# tests of one file stay together: they share what is costly to make
test-fast: lint ## ruff, mypy and the short tests without Ray: under 2 minutes
	@$(PYTEST) -n auto --dist loadfile -m "not (long or ray or $(HEAVY))"

test: test-fast ## test-fast, the longer tests, and those on one shared Ray: under 15 minutes, no root
	@$(PYTEST) -n auto --dist loadfile -m "long and not (ray or $(HEAVY))"
	$(PYTEST) -m "ray and not ($(HEAVY))"

test-heavy: test-clusters test-kills ## only what `make test` leaves out; with -j2 both parts at once

test-clusters: $(STAMP) ## on Slurm, and on hosts in network namespaces
	@$(PYTEST) -m "$(CLUSTERS)"

test-kills: $(STAMP) ## Chromium, kills, and what else takes long
	@$(PYTEST) -m "($(HEAVY)) and not ($(CLUSTERS))"

test-all: test test-heavy ## everything

docs: $(STAMP) ## write docs/reference/ anew from the settings and the commands
	@.venv/bin/python docs/generate.py

lock: ## write requirements.lock anew (needs uv)
	@uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	    --generate-hashes --no-header --no-emit-index-url --upgrade --output-file requirements.lock

clean: ## remove build output and tool caches
	@rm -rf build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find nml_ray tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove .venv too; runs/ stays
	@if [ -e .venv ]; then $(REMOVE_VENV); fi

# The stamp is written last. An interrupted installation leaves .unfinished instead, and the next call begins anew (what
# was downloaded is cached): half a package looks installed. So does another index: builds of one version look alike.
# The lock is complete, so nothing is resolved (--no-deps); every file is checked against its hash. Torch from an index
# the user names is another build than the locked one: only its version is held.
$(STAMP): requirements.lock pyproject.toml $(FORCE_INSTALL)
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11) ""; do
	    if [ -n "$$python" ] && "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi
	done
	if [ -z "$$python" ]; then
	    echo "nml_ray needs Python 3.11 or newer, and '$(or $(PYTHON),python3)' is not: make install PYTHON=/path/to/python3" >&2
	    exit 2
	fi
	if [ -e .venv/.unfinished ] || { [ -e .venv/torch-index ] && [ "$(TORCH_INDEX)" != "$(CHOSEN_INDEX)" ]; }; then
	    $(REMOVE_VENV)
	fi
	mkdir -p .venv
	touch .venv/.unfinished
	rm -f $@
	case "$(TORCH_INDEX) $$(uname -s)" in
	    " Linux") size="$(SIZE_CUDA)" ;;
	    *) size="$(SIZE_CPU)" ;;
	esac
	echo "Installing the packages of requirements.lock into .venv: $$size"
	if command -v uv >/dev/null; then
	    uv venv --quiet --allow-existing --python "$$python" .venv
	    install() { uv pip install --python .venv/bin/python --compile-bytecode "$$@"; }
	    check() { uv pip check --python .venv/bin/python; }
	else
	    "$$python" -m venv .venv
	    install() { .venv/bin/python -m pip install --disable-pip-version-check --progress-bar off --quiet "$$@"; }
	    check() { .venv/bin/python -m pip check --disable-pip-version-check; }
	fi
	echo "$(TORCH_INDEX)" > .venv/torch-index
	if [ -z "$(TORCH_INDEX)" ]; then
	    install --require-hashes --no-deps -r requirements.lock
	else
	    awk '/^[a-z]/ { torch = /^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==/ } !torch' \
	        requirements.lock > .venv/requirements.lock
	    install --require-hashes --no-deps -r .venv/requirements.lock
	    install --no-deps --index-url "$(TORCH_INDEX)" $$(grep -oE '^(torch|torchvision)==[0-9.]+' requirements.lock)
	fi
	install --no-deps --no-build-isolation --editable .
	check
	mv .venv/.unfinished $@

FORCE:
