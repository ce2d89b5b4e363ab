"""The example with the SB3 algorithms, and the door to RL Baselines3 Zoo."""

import runpy
import sys
import types
from pathlib import Path

import pytest
import yaml

from gumbelrl.agents.sb3 import GumbelSAC, zoo

ROOT = Path(__file__).parents[2]


def test_the_example_runs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sb3_sac.py", "--total-steps", "1100"])
    runpy.run_path(str(ROOT / "examples" / "sb3_sac.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sampled: ")
    assert lines[-1].removeprefix("actions of the model, of its file and of its weights: ") in (
        "[0, 0, 0]",
        "[1, 1, 1]",
    )


def test_the_zoo_gets_the_algorithms(monkeypatch):
    table = {"ppo": object()}
    monkeypatch.setitem(sys.modules, "rl_zoo3", types.SimpleNamespace(ALGOS=table))
    zoo.register()
    assert set(table) == {"ppo", "gumbel_sac", "gumbel_td3", "gumbel_ddpg"}
    monkeypatch.setitem(sys.modules, "rl_zoo3", None)
    with pytest.raises(ModuleNotFoundError, match="pip install rl_zoo3"):
        zoo.register()
    with pytest.raises(SystemExit, match=r"name a module of the zoo"):
        zoo.main(["train"])


def test_settings_for_the_zoo_are_those_of_the_algorithms():
    settings = yaml.safe_load((ROOT / "examples" / "rl_zoo.yml").read_text(encoding="utf-8"))
    accepted = set(GumbelSAC.__init__.__annotations__) | {"n_timesteps"}
    for env_id, chosen in settings.items():
        assert set(chosen) <= accepted, env_id
