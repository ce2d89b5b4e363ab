PYTHON ?= python

.PHONY: check test slow bench

check:  ## lint, format, types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## the fast tests
	$(PYTHON) -m pytest

slow:  ## the tests that take minutes
	$(PYTHON) -m pytest -m slow

bench:  ## the benchmarks; results go to benchmarks/results/
	$(PYTHON) benchmarks/members.py
	$(PYTHON) benchmarks/tracking.py
	$(PYTHON) benchmarks/learning.py --again --processes 2
