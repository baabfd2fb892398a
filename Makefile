# Every target is the command of the same name: make train PRESET=voc DATA=/data/voc ARGS="--set train.batch=8"
# `make demo` and `make test` each work as the very first command on a fresh machine.
PRESET ?= demo
DATA ?=
ARTIFACTS ?= artifacts
ARGS ?=
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN = $(BIN)/clip2seg $@ $(PRESET) --artifacts $(ARTIFACTS) $(if $(DATA),--data $(DATA)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo plan extract mine-latent mine-concepts pseudo-label train eval inspect ablate sweep teacher export runs doctor \
	bench bench-gpu pictures test test-slow torture fuzz coverage lint audit clean

help: ## show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo; echo '  PRESET=demo|voc|coco_stuff|context|FILE.toml  DATA=FOLDER  ARTIFACTS=FOLDER|s3://...  ARGS="--set table.key=value"'

$(VENV)/.user: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,export]'
	@touch $(VENV)/.user $@

demo: $(VENV)/.user ## install, then the whole pipeline on the embedded demo world: score table and pictures
	$(BIN)/clip2seg demo --artifacts $(ARTIFACTS) $(ARGS)

plan: $(VENV)/.user ## show the stages, their addresses, what is done and what would run
	$(RUN)

extract: $(VENV)/.user ## phase one: run CLIP once over the data set, store its tokens
	$(RUN)

mine-latent: $(VENV)/.user ## phase one: cluster unannotated dense tokens into latent classes
	$(RUN)

mine-concepts: $(VENV)/.user ## on request: cluster the latent regions of all images into the data set's own concepts
	$(RUN)

pseudo-label: $(VENV)/.user ## on request: pseudo labels for photos without masks, where the teacher is sure of a name
	$(RUN)

train: $(VENV)/.user ## phase two: train the student from labels and cache alone
	$(RUN)

eval: $(VENV)/.user ## score the student alone: sIoU, uIoU, hIoU
	$(RUN)

inspect: $(VENV)/.user ## ask the cache questions
	$(RUN)

ablate: $(VENV)/.user ## the paper's tables: make ablate PRESET=demo ARGS="--table 3 --seeds 3"
	$(RUN)

sweep: $(VENV)/.user ## unpublished settings: make sweep ARGS='--over "pixel-loss.beta=5;10;20"'
	$(RUN)

teacher: $(VENV)/.user ## pre-train the demo world's own CLIP from captions (shipped already)
	$(BIN)/clip2seg teacher $(ARGS)

export: $(VENV)/.dev ## the student as an ONNX file, checked against PyTorch, with a model card
	$(RUN)

runs: $(VENV)/.user ## list this preset's training runs with their scores
	$(BIN)/clip2seg runs $(PRESET) --artifacts $(ARTIFACTS) $(ARGS)

certify: $(VENV)/.user ## prove on your own photos that nothing of an unseen class reaches training
	$(RUN)

doctor: $(VENV)/.user ## look at this machine: versions, GPU, disk, weights; each finding with its remedy
	$(RUN)

bench: $(VENV)/.dev ## every benchmark beside its limit, one thread; tables into docs/performance.md
	OMP_NUM_THREADS=1 $(BIN)/clip2seg benchmark all --markdown docs/performance.md $(ARGS)

bench-gpu: $(VENV)/.dev ## on one GPU: does it compute as a CPU, waiting for nothing; then the record (4 minutes each)
	$(BIN)/clip2seg benchmark gpu-check --device cuda $(ARGS)
	$(BIN)/clip2seg benchmark gpu --device cuda --markdown docs/performance.md $(ARGS)

pictures: $(VENV)/.user ## the pictures of README and docs, from docs/results.md and a finished demo
	$(BIN)/python experiments/pictures.py --artifacts $(ARTIFACTS) $(ARGS)

test: $(VENV)/.dev ## install, then run the tests, all but the slow ones
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m "not slow" $(ARGS)

test-slow: $(VENV)/.dev ## the slow tests: kills, object stores, the wheel, several processes, whole studies
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m slow $(ARGS)

coverage: $(VENV)/.dev ## the tests again, with the share of lines and branches that they run
	$(BIN)/python -m pytest -q -n auto --dist loadgroup --cov --cov-report=term:skip-covered $(ARGS)

torture: $(VENV)/.dev ## kill every stage before and after each of its writes (about 20 minutes on one core)
	OMP_NUM_THREADS=1 $(BIN)/python tests/evidence/torture.py $(ARGS)

fuzz: $(VENV)/.dev ## forged marks, metadata, headers, presets and teachers for ten minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/evidence/fuzz.py $(ARGS)

lint: $(VENV)/.dev ## format check, lint, type check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: $(VENV)/.dev ## known advisories on the installed packages; needs a network, and says where it had none
	$(BIN)/python .ci/audit.py

clean: ## remove the environment and tool caches; artifacts/ stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
