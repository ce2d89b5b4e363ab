"""The generated parts of the documentation are what the registries say."""

import sys
from pathlib import Path

import pytest

from gumbelrl.envs.listing import listing, markdown
from gumbelrl.policies import ESTIMATORS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


@pytest.mark.parametrize("part", ["properties", "reference"])
def test_the_page_of_estimators_says_what_the_registry_says(benchmarks, part):
    """If this fails: `python benchmarks/estimators.py --docs`."""
    import estimator_pages

    import generated

    want = {"properties": estimator_pages.property_table, "reference": estimator_pages.reference_sections}[part]()
    assert generated.read_part("estimators.md", part) == want.strip()


def test_every_estimator_that_ships_has_been_measured(benchmarks):
    import estimators

    results = estimators.json.loads(estimators.RESULTS.read_text())
    for problem in estimators.PROBLEMS:
        assert set(results[problem]["found"]) == set(ESTIMATORS), problem


def test_the_page_of_environments_says_what_the_registry_says(benchmarks):
    """If this fails: `python benchmarks/environment_pages.py`."""
    import generated

    assert generated.read_part("environments.md", "environments") == markdown(listing())


def test_the_page_of_performance_says_what_the_benchmarks_found(benchmarks):
    """If this fails: `python benchmarks/performance_page.py`."""
    import performance_page

    import generated

    for name, part in performance_page.PARTS.items():
        assert generated.read_part("performance.md", name) == performance_page.part(name).strip(), name
        if part.figure and performance_page.read(name):
            assert (ROOT / "docs" / "figures" / part.figure[0]).exists()


def test_a_benchmark_that_was_not_run_is_named(benchmarks, monkeypatch, tmp_path):
    import performance_page

    monkeypatch.setattr(performance_page, "RESULTS", tmp_path)
    for name in performance_page.PARTS:
        assert performance_page.part(name).startswith("*Not measured yet:* `python benchmarks/")


def test_a_part_that_is_not_there_is_an_error(benchmarks):
    import generated

    with pytest.raises(ValueError, match=r"docs/estimators.md has no part <!-- generated: nothing -->"):
        generated.read_part("estimators.md", "nothing")
