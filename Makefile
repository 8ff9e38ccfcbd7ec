# Every target shares the virtual environment .venv, made by the first of them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CC_TEST_SOURCES := $(wildcard dynamic_batching/*_test.cc environments/*_test.cc)
CC_TESTS := $(CC_TEST_SOURCES:%.cc=build/cc/%)
CC_FILES := $(wildcard *.h */*.h */*.cc)
OPS_SOURCES := $(filter-out $(CC_TEST_SOURCES), \
	$(wildcard dynamic_batching/*.cc dynamic_batching/*.h \
	environments/*.cc environments/*.h)) ops_stamp.h setup.py
TENSORFLOW := $(wildcard $(VENV)/lib/*/site-packages/tensorflow-*.dist-info/RECORD)
# As pyproject.toml has them, each in its quotes.
BUILD_NEEDS := $(shell sed -n "/^requires/{s/.*\[\(.*\)\]/\1/; s/', '/' '/gp}" \
	pyproject.toml)

.PHONY: build train cluster test test-slow test-cc test-docs test-install bazel lint \
	format docs clean

build: $(VENV)/.built

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Compiles the ops against the TensorFlow in the virtual environment, again when
# another one is installed there.
$(VENV)/.built: pyproject.toml $(OPS_SOURCES) $(TENSORFLOW) | $(BIN)/pip
	$(BIN)/pip install --quiet $(BUILD_NEEDS)
	$(BIN)/pip install --quiet --no-build-isolation \
	  --editable '.[atari,doom,video,dev]'
	touch $@

# FLAGS, for example --seed=2, come last and so decide.
train: build
	$(BIN)/python experiment.py --flagfile=configs/quickstart.flags $(FLAGS)

# A learner and four actor processes of four environments each.
cluster: build
	$(BIN)/python -m impala.distributed.local_cluster --actors=4 -- \
	  --flagfile=configs/quickstart.flags --num_envs=4 --logdir=runs/cluster \
	  $(FLAGS)

test: build test-cc
	$(BIN)/python -m pytest -m 'not slow'

# What really learns.
test-slow: build
	$(BIN)/python -m pytest -m slow

# The commands that README and docs tell users, trainings shortened.
test-docs: build
	$(BIN)/python tests/run_docs.py

# What a user installs, with the Python that is named.
test-install: build
	tests/install.sh $(PYTHON)

# The cores' own tests, which need no TensorFlow: plain, and watched for races.
test-cc: $(CC_TESTS) $(CC_TESTS:%=%_tsan)
	@for test in $^; do echo $$test; $$test || exit 1; done

CC_TEST = mkdir -p $(@D) && $(CXX) -std=c++17 -O1 -g -Wall -Werror -I. -pthread

build/cc/%_test: %_test.cc %.cc %.h
	$(CC_TEST) $< $*.cc -o $@

build/cc/%_test_tsan: %_test.cc %.cc %.h
	$(CC_TEST) -fsanitize=thread $< $*.cc -o $@

# The same ops and tests, except for what is slow.
bazel: build
	bazel build //...
	bazel test //...

lint: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CC_FILES)

format: build
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CC_FILES)

# docs/flags.md, from the definitions.
docs: build
	$(BIN)/python docs/make_flags.py

clean:
	rm -rf $(VENV) build *.egg-info */_ops.so
