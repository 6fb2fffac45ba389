# All set-up is made here, once, in $(VENV); a second call does no work twice.
#   make test PYTHON=python3.12     another interpreter (the environment is made anew)
#   make install EXTRA=cuda         with an accelerator's packages: cuda or tpu

VENV ?= .venv
EXTRA ?=
JOBS ?= 2
CONFIG ?= configs/quickstart.py
WORKDIR ?= runs/quickstart
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c "$(FITS)" 2>/dev/null && echo $$python && break; done)

BIN := $(VENV)/bin
TELL_VERSION := import sys; print("%d.%d.%d" % sys.version_info[:3])
VERSION := $(shell $(PYTHON) -c '$(TELL_VERSION)' 2>/dev/null)
MADE := $(VENV)/made-by-$(VERSION)
INSTALLED := $(VENV)/installed-by-$(VERSION)$(EXTRA:%=-%)

.PHONY: install quickstart test test-families test-layouts test-tpu test-plan test-parity test-faults test-slurm soak smoke lint format docs bench

install: $(INSTALLED)

# What the environment holds already is kept if this interpreter made it.
$(MADE):
	@$(PYTHON) -c "$(FITS)" 2>/dev/null || { \
		echo "bigmodel needs Python 3.11, 3.12 or 3.13: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@test "$$($(BIN)/python -c '$(TELL_VERSION)' 2>/dev/null)" = "$(VERSION)" || { \
		rm -rf "$(VENV)"; $(PYTHON) -m venv "$(VENV)"; }
	@touch $@

$(INSTALLED): $(MADE) setup.py
	@echo "installing into $(VENV), once; this takes a few minutes"
	@$(BIN)/python -m pip install --quiet --editable ".[dev$(EXTRA:%=,%)]"
	@touch $@

quickstart: install
	$(BIN)/bigmodel train --config $(CONFIG) --workdir $(WORKDIR)
	$(BIN)/bigmodel evaluate --workdir $(WORKDIR)
	$(BIN)/bigmodel generate --workdir $(WORKDIR) --prompt "def " --max_new_tokens 200

# Files in order: the soak, one row and the longest, would be left to the end.
test: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Of what `make test` has some rows: every family, kind, config or size; and what takes long.
test-families: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "families and not layouts"

# Every family under every layout.
test-layouts: install
	$(BIN)/python -m pytest -n $(JOBS) -m layouts tests/sharding tests/train/test_families.py

# Programs for TPUs that are not here, up to their schedule: what they move and hold.
test-tpu: install
	$(BIN)/python -m pytest -m "tpu or not tpu" tests/sharding/test_programs.py

# Plans that `make test` leaves out: budgets, mis-shardings, refactors, refusals; five minutes.
test-plan: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m tpu tests/plan

# Conversion against torch and transformers, which it installs: some GB of packages on machines
# whose registry has no CPU build.
test-parity: install
	$(BIN)/python -m pip install --quiet --editable ".[parity]"
	$(BIN)/python -m pytest -n $(JOBS) -m "parity or not parity" tests/convert

# Everything that can happen to a job of several hosts, with real processes.
test-faults: install
	$(BIN)/python -m pytest -m "faults or not faults" tests/faults \
		tests/train/test_tiers.py tests/train/test_numbers.py

# Hosts killed 200 times at random moments; an hour and more.
soak: install
	$(BIN)/python -m tests.faults.soak --kills 200 --folder runs/soak-$$(date +%s)

# Jobs under Slurm itself, on two nodes that are this machine. It needs root, and Slurm:
# apt-get install -y --no-install-recommends slurmctld slurmd slurm-client
test-slurm: install
	@command -v slurmctld > /dev/null || { echo "Slurm is not installed: apt-get install -y \
	--no-install-recommends slurmctld slurmd slurm-client" >&2; exit 1; }
	$(BIN)/python -m pytest -m slurm -rs tests/launch/test_real_slurm.py

smoke: install
	$(BIN)/python -m pytest -m smoke

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: install
	$(BIN)/bigmodel bench --config $(CONFIG)
