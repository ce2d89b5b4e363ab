"""A new estimator is one decorated function: the command line, the tests and the documentation find it themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLUGIN = '''
"""A scratch estimator, as a reader of docs/adding.md would write it."""
import torch
from gumbelrl.policies import register
from gumbelrl.policies.estimators.base import pathwise
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import sample_one_hot

@register("scratch", exact_on="multilinear", pathwise=True, one_hot=True, noise="sample", evaluations=1,
          temperature="unused", paper="none")
def scratch(logits, value, *, temperature=1.0, mask=None, generator=None):
    """Straight-through under another name."""
    valid = mask_logits(logits, mask)
    return pathwise(value, sample_one_hot(valid, generator=generator), torch.softmax(valid, -1))
'''


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "scratch_estimator.py").write_text(PLUGIN)
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "benchmarks")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def python(*words, environment):
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_offers_it_and_trains_with_it(environment, tmp_path):
    code = "import sys, scratch_estimator; from gumbelrl.agents.command_line import main; sys.exit(main(sys.argv[1:]))"
    assert "scratch" in python("-c", code, "--help", environment=environment)
    small = ["--num-envs", "4", "--rollout-steps", "8", "--minibatches", "1", "--total-steps", "64", "--track", "off"]
    out = python("-c", code, "--policy", "scratch", *small, "--output", str(tmp_path / "run"), environment=environment)
    assert "solved at step" in out


def test_the_tests_collect_it(environment):
    words = ["-m", "pytest", "-o", "addopts=--import-mode=importlib", "-p", "scratch_estimator", "--collect-only", "-q"]
    words.append("tests/policies/test_estimators.py")
    collected = python(*words, environment=environment)
    assert "test_exactness_is_as_declared_by_enumeration[scratch-linear]" in collected
    assert "test_compiles_as_one_graph_with_the_same_result[scratch]" in collected


def test_the_benchmark_and_the_table_have_it(environment):
    code = """
import scratch_estimator, estimators
from estimator_pages import property_table, reference_sections
from estimator_problems import PROBLEMS
print(property_table(), reference_sections(), estimators.names())
print(estimators.measure(("curvature", "scratch")), PROBLEMS["factored"].measure("scratch"))
"""
    out = python("-c", code, environment=environment)
    assert "| `scratch` |" in out
    assert "### `scratch`" in out
    assert "'scratch'" in out
    assert "'attracts': True" in out  # it is straight-through: it rests at .75
