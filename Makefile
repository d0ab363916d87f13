# Two commands: `make search` and `make test`. Each makes .venv when it is missing.
# ARGS go to the command behind a target: make search ARGS="search_spaces/quick.yaml --trials 4"
PYTHON ?= python3
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
ARGS ?=

.PHONY: search test test-all check lint coverage soak docs lock kit install clean
search: .venv/.installed
	$(PY) tune/run_search.py $(ARGS)

test: .venv/.installed
	$(PY) -m pytest -n 2 -m "not slow" $(ARGS)

test-all: .venv/.installed
	$(PY) -m pytest -n 2 $(ARGS)

check: lint test-all

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

coverage: .venv/.installed
	$(PY) -m pytest -n 2 -m "not slow" --cov=reranker --cov=results --cov=tune --cov-report=term:skip-covered $(ARGS)

# Hours of faults at random moments; what was found is kept, and the next call goes on: bench/soak.py
soak: .venv/.installed
	$(PY) -m bench.soak $(ARGS)

docs: .venv/.installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --quiet
	@echo "the site: site/index.html; with its search: $(PY) -m http.server --bind 127.0.0.1 --directory site"

# Every package of constraints.txt with the hashes of its files, for pip's --require-hashes: with PyTorch's CUDA build, and
# without torch, to be installed after its CPU build. (A uv.lock would name the index that it was made from.)
LOCK := .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --constraint constraints.txt \
  --generate-hashes --no-header --no-annotate --no-emit-index-url
lock: .venv/.installed
	$(PIP) install --quiet uv
	$(LOCK) --extra nf4 --output-file requirements-cuda.txt
	$(LOCK) $$(grep -oE '^(nvidia|cuda|triton|torch)[a-z0-9-]*==' requirements-cuda.txt | sed 's/^/--unsafe-package /; s/==//') \
	  --output-file requirements-cpu.txt

# Wheels, base models and the project for machines without a network: deploy/kit/make_kit.py --help
kit: .venv/.installed
	$(PY) deploy/kit/make_kit.py $(ARGS)

install: .venv/.installed

# A machine without an NVIDIA GPU gets the CPU build of torch: from the configured package index, else from PyTorch's
# own (uv knows where it is), else whatever the index has. A GPU machine gets the CUDA build.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 …" >&2; exit 2; }
	@echo "installing PyTorch and what else is needed into .venv, once: some minutes, over 2 GB, with CUDA several times that; log: .venv/install.log"
	@mkdir -p .venv && rm -f .venv/install.log
	@{ $(PYTHON) -m venv .venv && if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 || [ "$$(uname)" != Linux ]; then \
	  $(PIP) install "torch==$(TORCH),!=$(TORCH)+cpu"; \
	else \
	  $(PIP) install "torch==$(TORCH)+cpu" \
	  || { $(PIP) install uv && .venv/bin/uv pip install --python $(PY) --torch-backend cpu "torch==$(TORCH)"; } \
	  || $(PIP) install "torch==$(TORCH)"; \
	fi && $(PIP) install --constraint constraints.txt --editable '.[dev]'; } > .venv/install.log 2>&1 \
	  || { $(PYTHON) deploy/install_failure.py .venv/install.log; exit 1; }
	@touch $@

clean:
	rm -rf .venv *.egg-info .mypy_cache .ruff_cache .pytest_cache
