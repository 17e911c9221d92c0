# Each target is one line that can be typed by hand. Everything lives in .venv in the root.
# Stamps (.venv/.demo, .venv/.all, wheelhouse/.words) keep a second call from installing again.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13 python3.10; do $$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
DATA ?= ../shared/data

# llama.cpp without its programs, and for any x86-64 with AVX2 rather than for this one alone.
LEAN := -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
LLAMA := $(shell sed -n 's/^words = \["\(.*\)"\]$$/\1/p' pyproject.toml)
# Expanded when a recipe runs: "words," where llama.cpp could be built, else nothing.
WORDS = $(shell ls wheelhouse/llama_cpp_python-*.whl >/dev/null 2>&1 && echo words,)
PORTRAIT = $(shell $(BIN)/python -c 'import skimage; print(skimage.__path__[0])')/data/astronaut.png

.PHONY: help setup demo test test-slow test-data test-aarch64 check lint typing types layers wheelhouse wheel train-nano bench
.DEFAULT_GOAL := help

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' Makefile

setup: .venv/.all  ## .venv with everything, for work on the project

demo: .venv/.demo  ## read the portrait that scikit-image ships
	mkdir -p runs && cd runs && ../$(BIN)/feallm analyze "$(PORTRAIT)"

test: .venv/.all  ## the tests (a few minutes; no data, no device)
	$(BIN)/pytest -m "not slow and not data and not gpu and not device and not emulated"

test-slow: .venv/.all  ## the tests that take minutes, those with ../shared/data too
	$(BIN)/pytest -m "slow and not gpu and not device and not emulated" -rs

test-data: .venv/.all  ## the tests that use ../shared/data (ten minutes at most)
	$(BIN)/pytest -m "data and not slow" -rs

test-aarch64: .venv/.all  ## ONNX and .pte files on an emulated ARM board (needs qemu)
	$(BIN)/pytest -m emulated -rs

check: lint typing layers  ## ruff, mypy --strict, who may import whom

lint: .venv/.all
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/.all  ## forwarders that let type checkers see feallm.<room>
	$(BIN)/python tools/forward_types.py

typing: types
	$(BIN)/mypy

layers: .venv/.all
	rm -rf build && $(BIN)/pip install --quiet --no-deps --no-build-isolation --target build/check . && cd build/check && ../../$(BIN)/lint-imports --no-cache --config ../../pyproject.toml

wheelhouse: wheelhouse/.words  ## every wheel of the device, for an install without network
	rm -rf build && $(BIN)/pip wheel --find-links wheelhouse --wheel-dir wheelhouse ".$(if $(WORDS),[words])"

wheel: .venv/.all  ## sdist and wheel in dist/
	rm -rf build && $(BIN)/python -m build

train-nano: packs/pack.json  ## train the shipped size again and export it (about an hour on two cores)
	$(BIN)/feallm train --size nano --pack packs --out runs/nano && rm -rf runs/nano-bundle && $(BIN)/feallm export --checkpoint runs/nano/nano.safetensors --out runs/nano-bundle

packs/pack.json: | .venv/.all
	$(BIN)/feallm data pack --data $(DATA) --out packs

bench: .venv/.demo  ## time each stage on this machine
	$(BIN)/feallm bench

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer, with venv, was not found: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv

wheelhouse/.words: pyproject.toml | $(BIN)/python
	@mkdir -p wheelhouse && echo "Building llama.cpp, once: about four minutes on two free cores."
	@CMAKE_ARGS="$(LEAN)" CMAKE_BUILD_PARALLEL_LEVEL=$(JOBS) $(BIN)/pip wheel --no-deps --find-links wheelhouse --wheel-dir wheelhouse "$(LLAMA)" || echo "llama.cpp could not be built (it needs a C++ compiler): everything works but the model's own sentence. To try again: rm wheelhouse/.words"
	@touch $@

.venv/.demo: wheelhouse/.words pyproject.toml setup.py | $(BIN)/python
	$(BIN)/pip install --find-links wheelhouse --editable ".[$(WORDS)demo]"
	@touch $@

.venv/.all: wheelhouse/.words pyproject.toml setup.py | $(BIN)/python
	$(BIN)/pip install --find-links wheelhouse --editable ".[$(WORDS)train,render,export,executorch,coreml,sign,dev,demo]"
	@touch $@
