# make demo: set up and run the main job.   make test: set up and run the tests.   make help lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/llmkit

.DEFAULT_GOAL := help
.PHONY: help setup demo test check matrix pretend-gpu reliability chaos fuzz slow bench bench-full guard docs book site man release clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "installing llmkit, and the tested versions of what it needs, into $(VENV): about 2.5 GB, several minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(VENV)/.ready  ## make .venv and install llmkit with the tested versions

demo: setup  ## the main job on real text: pretrain, fine-tune, generate (under 10 minutes on 2 cores, downloads aside)
	$(RUN) models pull minilm-l6
	$(RUN) models pull smollm2-135m-instruct
	$(RUN) pretrain recipes/bert_mlm.yaml
	$(RUN) finetune --method prefix
	$(RUN) generate "Tell me a story about a cat"

test: setup  ## the tests, without a network: about a quarter of an hour on 2 cores
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/mypy

matrix: setup  ## every family x objective or task x method; `make test` runs some of the cells that cover every pair
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 LLMKIT_MATRIX=all $(BIN)/python -m pytest -n 2 tests/test_matrix.py

pretend-gpu: setup  ## what the matrix covers on a GPU that isn't there, in fp32, bf16 and fp16; needs a C++ compiler
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m pretend_gpu tests/fakecuda

reliability: setup  ## faults, bad input and kills through the command line, in less than 30 minutes on 2 cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m reliability tests/reliability

chaos: fuzz  ## 200 kills at random moments, every run resumed to the end and compared (CHAOS="--kills 20 --seed 1"); and fuzz
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m reliability.chaos $(CHAOS)

fuzz: setup  ## 2,000 mutated recipes and 2,000 mutated data files, each ends in order (FUZZ="--recipes 100 --seed 3")
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m reliability.fuzz $(FUZZ)

bench: setup  ## speed and memory beside the stock way on reduced sizes, in less than 30 minutes; text from $$LLMKIT_DATA
	$(BIN)/python -m benchmarks.speed

guard: setup  ## two small pairs beside the stock way, in 2 minutes: fails where a ratio is below half of the landed one
	$(BIN)/python -m benchmarks.speed.guard

bench-full: setup  ## the same at full size: hours
	$(BIN)/python -m benchmarks.speed --full

docs: setup  ## write anew what the code prints into the pages of docs/; say which Chinese pages are behind
	$(BIN)/python docs/pages.py
	$(BIN)/python docs/website.py --behind

book: setup  ## run the book's chapters and write what they print into docs/book (CHAPTER=03, CHAPTER="zh/03 --check")
	$(BIN)/python docs/book/make.py $(CHAPTER)

site: setup  ## the documentation as a site, in build/site: English and Chinese, no network; a dead link ends it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[site]'
	$(BIN)/python docs/website.py

man: setup  ## pages for man of every command, into dist/man
	$(BIN)/python docs/manual.py dist/man

release:  ## wheel and sdist into dist/; the wheel is tried out in a clean environment: --help, three steps, no network (EXTRAS=--extras: and each extra)
	$(PYTHON) .ci/release.py $(EXTRAS)

slow: setup  ## quality tests that take minutes; those on real data read it from $$LLMKIT_DATA
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

clean:  ## remove what make and the tools made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
