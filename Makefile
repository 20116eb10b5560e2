# sb3_strl: `make help` lists the targets. Needs Python 3.10+ with pip, and make; everything else goes into $(VENV).
#   PYTHON=python3.12       the interpreter that makes the environment
#   VENV_FLAGS=--system-site-packages   see the system's packages, e.g. a torch with CUDA: one that fits is left alone
#   TORCH_INDEX=URL         where to take torch from: PyTorch's index of CPU wheels, a mirror, or a folder of wheels
#   USE_ENV=1               install nothing and use $(PYTHON) as it is
PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
TORCH_INDEX ?=
WORKERS ?= 2
PYTEST_ARGS ?=
ifdef USE_ENV
PY := $(PYTHON)
else
PY := $(VENV)/bin/python
TESTS_ENV := $(VENV)/.tests
DEMO_ENV := $(VENV)/.demo
BENCH_ENV := $(VENV)/.bench
DOCS_ENV := $(VENV)/.docs
endif
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
ONE_THREAD := OMP_NUM_THREADS=1
# Two processes of one thread each beat one process of two: the tensors in tests are tiny.
PYTEST := $(ONE_THREAD) $(PY) -m pytest
# On Linux the oldest and the newest torch of a plain index are builds with CUDA, gigabytes; TORCH_INDEX says where others are.
LOWEST_VENV ?= .venv/lowest
LOWEST_EXTRAS ?= mujoco demo video zoo export
NEWEST_VENV ?= .venv/newest
FROM_TORCH_INDEX = $(if $(TORCH_INDEX),$(if $(findstring ://,$(TORCH_INDEX)),--extra-index-url,--find-links) '$(TORCH_INDEX)')
COMMA := ,
SPACE := $(subst ,, )
PATHS := sb3_strl tests $(wildcard benchmarks examples scripts)
TYPED := sb3_strl $(foreach d,benchmarks examples scripts,$(if $(wildcard $(d)/*.py),$(d)))

.DEFAULT_GOAL := help
.PHONY: help install demo demo-smoke course test test-learning test-gpu test-lowest test-newest check format lint type imports coverage bench docs build clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { echo "make: '$(PYTHON)' is \
	$$($(PYTHON) --version 2>&1). Python 3.10 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

# torch first and alone: what follows then finds it and never asks an index for the CUDA build.
$(VENV)/.torch: constraints.txt scripts/install_torch.sh | $(VENV)/bin/python
	@TORCH_INDEX='$(TORCH_INDEX)' sh scripts/install_torch.sh $(PY)
	@touch $@

$(VENV)/.demo $(VENV)/.tests $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: $(VENV)/.torch setup.cfg pyproject.toml
	@echo "Installing sb3_strl[$*,mujoco] into $(VENV)"
	@grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> $(VENV)/constraints.txt
	@$(PIP) -c $(VENV)/constraints.txt -e '.[$*,mujoco]'
	@if [ $* = tests ]; then $(PIP) --no-deps imitation==1.0.1; fi # by itself it would downgrade SB3
	@touch $@

install: $(TESTS_ENV) $(DEMO_ENV) ## make .venv with the package, its tests and the demonstration (again: nothing)

demo: $(DEMO_ENV) ## train PPO and APPO on the walker, write curves and pictures to runs/demo
	$(PY) examples/demo.py --out runs/demo

demo-smoke: $(DEMO_ENV) ## the same in seconds: does it run?
	$(PY) examples/demo.py --smoke --out runs/demo-smoke

course: $(DEMO_ENV) ## train three skills, let a mutex policy take them along a course, write runs/mutex
	$(ONE_THREAD) $(PY) examples/mutex_course.py --out runs/mutex

test: $(TESTS_ENV) ## unit and integration tests on the CPU
	$(PYTEST) -n $(WORKERS) $(PYTEST_ARGS)

test-learning: $(TESTS_ENV) ## tests that train until something is learnt
	$(PYTEST) -n $(WORKERS) -m learning $(PYTEST_ARGS)

test-gpu: $(TESTS_ENV) ## tests that need an accelerator
	$(PY) -m pytest -m gpu $(PYTEST_ARGS)

test-lowest: ## the tests with the lowest versions that setup.cfg allows, in an environment of their own
	$(PYTHON) -m venv $(LOWEST_VENV)
	$(PYTHON) scripts/lowest.py $(LOWEST_EXTRAS) > $(LOWEST_VENV)/lowest.txt
	$(LOWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(FROM_TORCH_INDEX) -c $(LOWEST_VENV)/lowest.txt \
	  pytest pytest-xdist hypothesis -e '.[$(subst $(SPACE),$(COMMA),$(strip $(LOWEST_EXTRAS)))]'
	$(ONE_THREAD) $(LOWEST_VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

test-newest: ## the tests with the newest versions that setup.cfg allows, in an environment of their own
	$(PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade $(FROM_TORCH_INDEX) -e '.[tests,mujoco]'
	$(NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps imitation==1.0.1
	$(ONE_THREAD) $(NEWEST_VENV)/bin/python -m pytest -n $(WORKERS) $(PYTEST_ARGS)

check: $(TESTS_ENV) ## format, lint, types, import layers (what CI asks before the tests)
	@$(MAKE) --no-print-directory --keep-going .check-format lint type imports

.PHONY: .check-format
.check-format:
	$(PY) -m ruff format --check $(PATHS)

format: $(TESTS_ENV) ## write the format and the fixes that are safe
	$(PY) -m ruff check --fix $(PATHS)
	$(PY) -m ruff format $(PATHS)

lint: $(TESTS_ENV) ## ruff
	$(PY) -m ruff check $(PATHS)

type: $(TESTS_ENV) ## mypy --strict
	$(PY) -m mypy $(TYPED)

imports: $(TESTS_ENV) ## the layers of pyproject.toml
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'

coverage: $(TESTS_ENV) ## which lines and branches the tests reach
	$(ONE_THREAD) $(PY) -m coverage run -m pytest $(PYTEST_ARGS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

bench: $(BENCH_ENV) ## iteration times and memory beside Stable-Baselines3, sb3-contrib, rsl_rl and skrl (strl bench)
	$(PY) benchmarks/peers.py --json runs/peers.json --markdown runs/peers.md

docs: $(DOCS_ENV) ## the site in docs/_build/html; a warning is an error
	$(ONE_THREAD) $(PY) -m sphinx -W --keep-going -q -b html -d docs/_build/doctrees docs docs/_build/html

build: $(TESTS_ENV) ## wheel and sdist, each tried in an environment of its own: doctor, zoo, demo-smoke
	rm -rf build dist
	$(PY) -m build --outdir dist .
	sh scripts/smoke_dist.sh $(PY) dist/*.whl dist/*.tar.gz

clean: ## remove what tools and builds left (not .venv, not runs)
	rm -rf build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache docs/_build docs/api/*.rst *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
