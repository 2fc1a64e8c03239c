# Two commands: `make demo` and `make test`. Both set up .venv first (scripts/setup.sh lists its variables).
SHELL := /bin/bash
.PHONY: help setup demo test lint clean

help:
	@echo "make demo    set up, run the whole system on a rendered recording, leave demo_output/report.html"
	@echo "make test    set up, run all tests (PYTEST_ARGS=... for fewer)"
	@echo "make lint    check style and types"
	@echo "make clean   remove what the others made"

setup:
	@scripts/setup.sh

demo: setup
	@. scripts/env.sh && robust-loc demo -o demo_output

# One thread for torch: on few cores its pool and numba's get in each other's way, and results repeat better.
test: setup
	@. scripts/env.sh && OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} python -m pytest $(PYTEST_ARGS)

lint: setup
	@. scripts/env.sh && ruff check . && ruff format --check . && mypy

clean:
	rm -rf .venv build install log demo_output
