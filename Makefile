# make run, make test and their friends. Everything happens in .venv, made here.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STUDY ?= phantom
SEEDS ?= 0 1 2
ENV_OF_STUDY = $(if $(filter phantom,$(STUDY)),base,$(STUDY))
ARGS ?=
TESTS ?= tests
WORKERS ?= 2

.PHONY: run test study review viz mlflow lint bench bench-reveal bench-retrieval bench-mitigation bench-ingest clean install install-dev

run: install  ## Run the main job: all eight pipelines on the embedded phantom study
	$(BIN)/kedro run $(ARGS)

study: install  ## Run a study for several seeds and aggregate: make study STUDY=breastmnist SEEDS='0 1 2'
	$(BIN)/python -m xai_robustness.study --env $(ENV_OF_STUDY) --seeds "$(SEEDS)" $(ARGS)

review: $(VENV)/.installed-review  ## Look at suspects in the browser, tick, save: make review STUDY=isic_ruler
	$(BIN)/python -m xai_robustness.review --env $(ENV_OF_STUDY) $(ARGS)

test: install-dev  ## Run the tests, some files of them side by side, one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS) $(ARGS)

lint: install-dev  ## Style, types and layers
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

viz: install  ## Open the flow in kedro-viz
	$(BIN)/kedro viz run --env $(ENV_OF_STUDY) --include-hooks $(ARGS)

mlflow: install  ## Compare runs in MLflow
	$(BIN)/mlflow ui --backend-store-uri sqlite:///mlflow.db $(ARGS)

bench: install-dev  ## Measure against peers, side by side
	$(BIN)/python benchmarks/run.py $(ARGS)

bench-reveal: install-dev  ## How often reveal finds an injected artifact, and flags a clean control; resumable
	$(BIN)/python benchmarks/reveal.py $(ARGS)

bench-retrieval: install-dev  ## How well concept vectors find an artifact, and for how many labels; resumable
	$(BIN)/python benchmarks/retrieval.py $(ARGS)

bench-mitigation: install-dev  ## Every correction on every study, artifact, rate, architecture and seed; resumable
	$(BIN)/python benchmarks/mitigation.py $(ARGS)

bench-ingest: install-dev  ## 25,000 generated images from files to latents: memory, throughput; resumable with ARGS='--folder ...'
	$(BIN)/python benchmarks/ingest.py $(ARGS)

clean:  ## Remove the environment and everything computed; raw data and a person's answers (data/09_answers) stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .viz mlflow.db mlartifacts
	rm -rf data/0[2-8]_* data/.lock-*

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/.installed-review: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[review]'
	touch $@
