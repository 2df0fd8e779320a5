# spark-kit. `make` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
# Which build of torch: cuda where an NVIDIA driver is, else cpu. Which CUDA (cuda or cuda12) is
# decided by driver and card when torch is installed; TORCH=cuda12 decides by hand.
TORCH  ?= $(if $(shell command -v nvidia-smi),cuda,cpu)
# Which container image, and what it stands on instead of the pinned base (docs/containers.md).
TARGET ?= $(TORCH:cuda12=cuda)
BASE_IMAGE   ?=
IMAGE_PYTHON ?=
# PEM file, where a TLS proxy signs what an image's build fetches.
CA_BUNDLE    ?=
# What runs the server, as `kit up` decides: a container, which brings its own torch, or a process.
DOCKER  = $(or $(DOCKER_HOST),$(wildcard /var/run/docker.sock $(XDG_RUNTIME_DIR)/docker.sock))
RUNTIME = $(or $(filter local container,$(KIT_RUNTIME)),$(if $(and $(filter cuda cuda12,$(TORCH)),$(DOCKER)),container,local))
# More arguments for `kit`, such as: make up ARGS="--model /data/spark-13b --port 9000"
ARGS   ?=

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
KIT = $(VENV)/bin/kit
READY = $(VENV)/$(if $(filter container,$(RUNTIME)),.cli,.native)
SOURCES = kit tests scripts docker

.DEFAULT_GOAL := help
.PHONY: help setup up down status logs test test-fast check format demo giftless transformers image wheelhouse lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.native ## set up .venv with the kit and its native engine

up: $(READY) ## serve a model and print its first answer (ARGS="--model DIR" for your own)
	$(KIT) up $(ARGS)

down: $(READY) ## stop the service
	$(KIT) down

status: $(READY) ## say whether the service runs
	$(KIT) status

logs: $(READY) ## show the service's log
	$(KIT) logs

test: $(VENV)/.dev ## run all tests (KIT_GOLDEN_DIR=DIR adds golden folders; ARGS go to pytest)
	@echo "All tests take about half an hour on two cores; make test-fast takes two minutes."
	$(VENV)/bin/python -m pytest -n logical $(ARGS)

# What starts no servers and reads no large files: most of the code, in little time.
FAST = checkpoint containers doctor memory proof runtime service test_docs.py test_house.py \
	test_lock.py test_records.py test_settings.py
SLOW = containers/test_wheelhouse.py checkpoint/test_convert_process.py checkpoint/test_shapes_process.py proof/simulate

test-fast: $(VENV)/.dev ## run the fast tests, on all cores
	$(VENV)/bin/python -m pytest -n logical $(FAST:%=tests/unit/%) $(SLOW:%=--ignore=tests/unit/%) $(ARGS)

check: $(VENV)/.dev ## lint, types, layers
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/hadolint docker/Dockerfile

format: $(VENV)/.dev ## format the code
	$(VENV)/bin/ruff check --fix $(SOURCES)
	$(VENV)/bin/ruff format $(SOURCES)

demo: $(VENV)/.native ## train the embedded demo model again (minutes)
	$(VENV)/bin/python scripts/train_demo.py

giftless: $(VENV)/.giftless ## set up a git LFS server for the tests (KIT_TEST_GIFTLESS=PYTHON)

transformers: $(VENV)/.transformers ## set up other versions of transformers for the tests (KIT_TEST_TRANSFORMERS=PYTHON:PYTHON)

image: $(VENV)/.cli ## build the container image (TARGET=cpu or cuda; BASE_IMAGE=, CA_BUNDLE=)
	$(KIT) image build --target $(TARGET) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(if $(CA_BUNDLE),--ca-bundle $(CA_BUNDLE))

wheelhouse: $(VENV)/.cli ## fetch the image's packages, to build it without an index (TARGET=, IMAGE_PYTHON=)
	$(KIT) image wheelhouse --target $(TARGET) $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(if $(IMAGE_PYTHON),--python $(IMAGE_PYTHON))

lock: ## resolve requirements/*.txt again (needs uv)
	$(PYTHON) scripts/lock_requirements.py

clean: ## remove .venv and caches; models and state stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/.cli: requirements/cli.txt pyproject.toml
	@echo "Setting up $(VENV) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/cli.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# torch comes first and alone: which build an index offers decides what else it needs.
$(VENV)/.torch: $(VENV)/.cli requirements/torch-cpu.txt requirements/torch-cuda.txt requirements/torch-cuda12.txt
	@build="$(TORCH)"; \
	if [ "$(origin TORCH)" = file ] && [ "$$build" = cuda ]; then \
		build="$$($(VENV)/bin/python -m kit.doctor.choose_torch requirements)" || exit 1; \
	fi; \
	echo "Installing torch ($$build) ..."; \
	if [ "$$build" = cpu ] && $(PIP) install --no-deps --require-hashes -r requirements/torch-cpu.txt; then :; \
	else \
		[ "$$build" != cpu ] || { build=cuda; echo "No CPU build of torch here: installing the CUDA build (about 3 GB), which runs on the CPU too"; }; \
		$(PIP) install --no-deps --require-hashes -r "requirements/torch-$$build.txt"; \
	fi
	@touch $@

$(VENV)/.native: $(VENV)/.torch requirements/native.txt
	$(PIP) install --require-hashes -r requirements/native.txt
	@touch $@

# It has requirements that are not the kit's, so it gets an environment of its own.
$(VENV)/.giftless: $(VENV)/.cli requirements/giftless.txt
	$(PYTHON) -m venv $(VENV)/giftless
	$(VENV)/giftless/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/giftless.txt
	@touch $@

# The oldest version that the model's code runs on, and the newest that the index has; all else they
# need, torch among it, is that of $(VENV).
OLDEST = from kit.models.spark.configuration_spark import TRIED_TRANSFORMERS as tried; print(tried[0])
BESIDE = import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path('purelib'), 'beside.pth').write_text(sys.argv[1])
$(VENV)/.transformers: $(VENV)/.native kit/models/spark/configuration_spark.py
	beside="$$($(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
	oldest="$$($(VENV)/bin/python -c '$(OLDEST)')" && \
	for wanted in "oldest transformers==$$oldest" "newest transformers"; do \
		python="$(VENV)/transformers-$${wanted%% *}/bin/python" && \
		$(PYTHON) -m venv --without-pip "$${python%/bin/python}" && \
		"$$python" -c "$(BESIDE)" "$$beside" && \
		$(PIP) --python "$$python" install --upgrade "$${wanted#* }" || exit 1; \
	done
	@touch $@

$(VENV)/.dev: $(VENV)/.native requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
