"""The examples with stable-baselines3's own agents run, if only for a moment."""

import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3")
EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "steps", "said"),
    [
        ("sb3_ppo.py", 512, ["return of the most probable actions, 20 episodes: "]),
        ("sb3_own_env.py", 120, ["return of the most probable actions, 20 episodes of 50 steps: -"]),
        ("sb3_masks.py", 64, ["MaskablePPO ", "PPO          return ", "SAC          return "]),
    ],
)
def test_it_runs(name, steps, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--total-steps", str(steps)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    out = capsys.readouterr().out
    for line in said:
        assert f"\n{line}" in f"\n{out}"
