# make study and make test need nothing but make, python3 >= 3.11 with venv, and a compiler: they set up .venv first.
# For Horovod they install Debian's Open MPI and compiler where they may (as root), and say which to install elsewhere;
# make test likewise Slurm, of which the tests bring up a cluster on this machine.
#
# Which builds of the frameworks that installs is up to the variables below. The defaults are what CI uses.
#   for GPUs:              make setup TORCH= TENSORFLOW= EXTRAS=gpu,export,horovod,dev
#   another package index: make setup PIP_OPTIONS="--extra-index-url https://…"   (for CPU builds of torch, say)
# What is given there holds for the later commands as well, until something else is given, or make clean.
VARIABLES := PYTHON TORCH TENSORFLOW EXTRAS PIP_OPTIONS
-include .venv/given.mk
GIVEN := $(foreach name,$(VARIABLES),$(if $(filter-out undefined,$(origin $(name))),$(name)))

PYTHON ?= python3
TORCH ?= torch==2.13.0
TENSORFLOW ?= tensorflow-cpu==2.21.*
EXTRAS ?= export,horovod,dev
PIP_OPTIONS ?=

export GIVEN $(VARIABLES)
# So that python -m finds the packages of this checkout, and no others, even under PYTHONSAFEPATH.
export PYTHONPATH := $(CURDIR)

.PHONY: setup horovod test faults bench study verify lint clean

# Where Horovod cannot be built it says so, and the four strategies that do without it are set up all the same.
setup:
	@tools/setup.sh
	@.venv/bin/python tools/build_horovod.py || [ $$? -eq 2 ]

horovod:
	@tools/setup.sh
	@.venv/bin/python tools/build_horovod.py

# Slurm and a browser are for the tests alone: they bring up a cluster of their own, and look at the pages of reports.
test: setup
	@.venv/bin/python tools/install_slurm.py
	@.venv/bin/python tools/install_browser.py
	.venv/bin/python -m pytest

# Every fault under every strategy (docs/reliability.md), of which make test has a choice; under an hour on 2 cores.
faults: setup
	TRIMARAN_FUZZ_EXAMPLES=8 .venv/bin/python -m pytest tests/faults -m "faults_all or not faults_all"

# The races of benchmarks/RESULTS.md that any machine can run, one after the other: hours, in which it has nothing else
# to do.
RACE = .venv/bin/python -m benchmarks
bench: setup
	$(RACE).verify_switches
	$(RACE).race --recipe digits-resnet18
	$(RACE).race --recipe stdlib-gpt
	$(RACE).race --recipe digits-resnet18 --set data.source=synthetic --strategies torch-horovod,tf-horovod
	$(RACE).race_strategies
	$(RACE).race_strategies --workers 1 --strategies torch-ddp
	$(RACE).race_switches --recipe stdlib-gpt --strategies torch-ddp --set model.width=384 data.global_batch=4 \
		performance.bucket_mib=1000 --switches performance.bucket_mib=4
	$(RACE).race_switches --recipe stdlib-gpt --strategies torch-single,tf-single --switches all
	$(RACE).race_switches --recipe digits-resnet18 --strategies torch-single,tf-single --switches all
	$(RACE).race_switches --recipe digits-resnet18 --strategies torch-ddp --switches all
	$(RACE).throughput --strategies torch-single,tf-single
	$(RACE).race_telemetry
	$(RACE).race_checkpoints
	$(RACE).race_loaders
	$(RACE).race_input

study: setup
	.venv/bin/python -m scaling.study

verify: setup
	.venv/bin/python -m launchers.verify

lint: setup
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

clean:
	rm -rf .venv *.egg-info build .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
