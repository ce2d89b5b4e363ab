"""`benchmarks/time_to_solve.py`: when a process said that it was done, what counts as unsolved, and the medians."""

import os
import sys
from pathlib import Path

import pytest

from gumbelrl.agents.command_line import requested_runs
from gumbelrl.agents.presets import with_preset

ROOT = Path(__file__).parents[2]
CORE = max(os.sched_getaffinity(0))


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def test_a_run_is_timed_until_its_line_and_ended_there():
    import time_to_solve

    code = "import time; time.sleep(.3); print('x reached 475 after 12,345 steps', flush=True); time.sleep(60)"
    found = time_to_solve.run([sys.executable, "-c", code], core=CORE)
    assert found["steps"] == 12345
    assert 0.3 <= found["seconds"] < 30
    assert 0 < found["cpu_seconds"] < found["seconds"]


def test_a_run_that_ends_without_its_line_is_unsolved_and_one_that_fails_is_an_error():
    import time_to_solve

    assert set(time_to_solve.run([sys.executable, "-c", "print('done')"], core=CORE).values()) == {None}
    with pytest.raises(time_to_solve.RunFailed, match="ValueError: no"):
        time_to_solve.run([sys.executable, "-c", "raise ValueError('no')"], core=CORE)


def test_medians_count_unsolved_runs_as_the_latest():
    import time_to_solve

    def runs(*seconds):
        return [{"seconds": s, "steps": s and 1000 * s, "cpu_seconds": s} for s in seconds]

    sides = {"preset": runs(4, None, 5), "sb3-ppo": runs(20, 19, 21), "defaults": runs(9, None)}
    summary = time_to_solve.summarise(sides)
    assert (summary["preset"]["seconds"], summary["preset"]["solved"], summary["preset"]["ratio"]) == (5, 2, 0.25)
    assert (summary["defaults"]["seconds"], summary["defaults"]["ratio"]) == (None, None)
    assert "| preset | 2 of 3 | 5.00 | 4.50 | 5,000 | 0.25 |" in time_to_solve.table(summary)
    assert "| defaults | 1 of 2 | – |" in time_to_solve.table(summary)


@pytest.mark.parametrize("side", ["preset", "defaults"])
def test_our_sides_are_runs_that_stop_at_475(side):
    import time_to_solve

    words = time_to_solve.SIDES[side]
    assert words[2] == str(ROOT / "train.py")
    (config,) = requested_runs(with_preset([*words[3:], "3"]))
    assert (config.env, config.policy, config.stop_at_return, config.seeds) == ("CartPole-v1", "gumbel", 475.0, (3,))
