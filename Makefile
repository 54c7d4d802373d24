# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STARTED := $(shell date +%s)

# XLA allocates its buffers anew in every step. In 4 kB pages their faults were
# a third of a training step's CPU time on a virtual machine; with huge pages
# (glibc ≥ 2.35, ignored elsewhere) the step ran 1.4 times as fast.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# Where this is set every process compiles all it imports: ten seconds each.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test lint docs env lock clean

quickstart: env
	$(RUN) -m tools.quickstart --workdir workdirs/quickstart \
	  --started $(STARTED)

test: env lint
	$(RUN) -m pytest

lint: env
	$(VENV)/bin/ruff check .

# The documentation as a site in workdirs/site. The variable silences an
# announcement about other versions of mkdocs.
docs: env
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict
	@echo open workdirs/site/index.html

# Made again only when the lock changes.
env: $(VENV)/.made

$(VENV)/.made: requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else f"error: Python 3.11 to 3.13 is needed, $(PYTHON) is {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check uv
	$(VENV)/bin/uv pip install --quiet --python $(RUN) -r requirements.lock
	@touch $@

# Pins what requirements.txt allows; run it after editing that file.
lock:
	$(VENV)/bin/uv pip compile --universal --python-version 3.11 \
	  --no-annotate --no-header --upgrade requirements.txt -o requirements.lock

clean:
	rm -rf $(VENV) workdirs
