# Everything a user or CI runs. `make` alone prints the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXP ?= tiny
ARGS ?=
ON ?= scenes
RUN ?= runs/quickstart
TABLE = $(if $(filter scenes,$(ON)),,_$(ON))
STAMP := $(VENV)/.installed

.PHONY: help setup quickstart test test-all test-docs gpu-check mutants check format clean \
	embed fit-pca compare-priors train-clip train-prior train-decoder train-upsampler sweep sample reproduce figures demo docs tutorials release

help:  ## print the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'
	@echo
	@echo '  EXP=name picks experiments/<stage>/name.yaml, ARGS="key=value ..." overrides its fields:'
	@echo '  make train-prior EXP=diffusion_l ARGS="trainer.max_steps=2 data.batch_size=2"'

# uv, because it installs torch and torchvision from the same registry build, in seconds.
$(STAMP): pyproject.toml constraints.txt
	@command -v uv >/dev/null || $(PYTHON) -m pip install --quiet uv
	@test -x $(BIN)/python || uv venv --quiet --python '>=3.11' $(VENV)
	uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,docs,test]'
	@touch $@

setup: $(STAMP)  ## make .venv with everything in it

quickstart: $(STAMP)  ## train a whole cascade on scenes, on a CPU, and sample from captions (15 min)
	$(BIN)/unclip recipe quickstart $(ARGS)

train-clip: $(STAMP)  ## train experiments/clip/$(EXP).yaml
	$(BIN)/unclip train clip/$(EXP) --with-parents $(ARGS)

train-prior: $(STAMP)  ## train experiments/prior/$(EXP).yaml, and the CLIP it needs where there is none
	$(BIN)/unclip train prior/$(EXP) --with-parents $(ARGS)

embed: $(STAMP)  ## embed a dataset: make embed SOURCE=photos CLIP=open_clip:ViT-L-14/openai OUT=embedded
	$(BIN)/unclip embed $(SOURCE) --clip $(CLIP) --out $(OUT) $(ARGS)

fit-pca: $(STAMP)  ## fit experiments/pca/$(EXP).yaml, the codec of the autoregressive priors
	$(BIN)/unclip fit-pca pca/$(EXP) --with-parents $(ARGS)

# One of each kind, of equal size and training FLOPs; ON=scenes or ON=cifar (with data.source=FILE).
compare-priors: $(STAMP)  ## train a diffusion and an autoregressive prior and write runs/priors_$(ON).md
	$(BIN)/unclip train prior/table_diffusion$(TABLE) --with-parents $(ARGS)
	$(BIN)/unclip train prior/table_ar$(TABLE) --with-parents $(ARGS)
	$(BIN)/unclip evaluate prior/table_diffusion$(TABLE) prior/table_ar$(TABLE) --n 1000 \
		--out runs/priors_$(ON).md --force

train-decoder: $(STAMP)  ## train experiments/decoder/$(EXP).yaml, and the CLIP it needs
	$(BIN)/unclip train decoder/$(EXP) --with-parents $(ARGS)

train-upsampler: $(STAMP)  ## train experiments/upsampler/$(EXP).yaml
	$(BIN)/unclip train upsampler/$(EXP) --with-parents $(ARGS)

sweep: $(STAMP)  ## search for the best settings: make sweep SWEEP=prior_lr COUNT=20
	$(BIN)/unclip sweep $(or $(SWEEP),--list) $(if $(COUNT),--count $(COUNT)) $(ARGS)

sample: $(STAMP)  ## sample images: make sample CAPTION="a red circle above a blue square" ARGS="--n 8"
	$(BIN)/unclip sample $(if $(CAPTION),"$(CAPTION)") $(ARGS)

reproduce: $(STAMP)  ## test the paper's claims in miniature, as a page: make reproduce ARGS="--budget 0.2"
	$(BIN)/unclip reproduce-paper $(ARGS)

figures: $(STAMP)  ## the paper's figures from a cascade, as a page: make figures RUN=runs/quickstart
	$(BIN)/unclip figures $(RUN) $(ARGS)

demo: $(STAMP)  ## play with a trained cascade in the browser: make demo ARGS="--pipeline runs/scenes_gpu"
	$(BIN)/unclip demo $(ARGS)

test: $(STAMP)  ## the tests, under 10 minutes on 2 cores
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-all: $(STAMP)  ## the slow tests too, and fifty times the examples of the property tests
	$(BIN)/python -m pytest -m '' --hypothesis-profile=long

test-docs: $(STAMP)  ## run every command that README and docs show, shrunk; build the site (30 min)
	PYTHONPATH=tests $(BIN)/python tests/page_counts.py
	$(BIN)/python -m pytest -m '' -rs tests/test_shown_commands.py tests/test_tutorials.py tests/test_links.py tests/test_site.py \
		tests/pipeline/test_front_door.py

gpu-check: $(STAMP)  ## what only a GPU can show: its tests, and unclip check-machine (8 min)
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/unclip check-machine --device cuda $(ARGS)

mutants: $(STAMP)  ## put plausible bugs in, one at a time: the tests must see each of them
	$(BIN)/python tests/mutants.py $(ARGS)

check: $(STAMP)  ## format, lint, types, import order, the glossary's words
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_words.py

format: $(STAMP)  ## rewrite the code in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## the site, in build/docs: open build/docs/index.html
	$(BIN)/python docs/site/build.py

tutorials: $(STAMP)  ## execute the tutorials here, with runs/quickstart, and keep what they draw (45 min)
	$(BIN)/python docs/site/tutorials.py $(ARGS)

release: $(STAMP)  ## build and check wheel and sdist of the tag at this commit, in dist/
	.ci/release

clean:  ## remove .venv and caches (runs/ stays)
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
