PYTHON ?= python

.PHONY: check test slow bench learning

check:  ## lint, format, types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

test:  ## the fast tests
	$(PYTHON) -m pytest

slow:  ## the tests that take minutes
	$(PYTHON) -m pytest -m slow

bench:  ## speed: results go to benchmarks/results/, tables and plots to docs/performance.md; half an hour
	$(PYTHON) benchmarks/throughput.py
	$(PYTHON) benchmarks/members.py
	$(PYTHON) benchmarks/scaling.py
	$(PYTHON) benchmarks/roofline.py
	$(PYTHON) benchmarks/environments.py
	$(PYTHON) benchmarks/tracking.py
	$(PYTHON) benchmarks/precision.py
	$(PYTHON) benchmarks/products.py
	$(PYTHON) benchmarks/time_to_solve.py
	$(PYTHON) benchmarks/peers.py
	$(PYTHON) benchmarks/performance_page.py

learning:  ## what is learned: every estimator by critic on CartPole; half an hour
	$(PYTHON) benchmarks/learning.py --again --processes 2
