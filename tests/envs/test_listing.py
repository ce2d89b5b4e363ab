"""`python -m gumbelrl.envs`."""

import subprocess
import sys

import pytest
from gymnasium import spaces

from gumbelrl.envs import ENVIRONMENTS
from gumbelrl.envs.__main__ import main
from gumbelrl.envs.listing import describe_space, listing


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["gumbelrl.envs", *words])
    return main()


def test_lists_every_environment_on_a_line(monkeypatch, capsys):
    assert run(monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(ENVIRONMENTS)]] == list(ENVIRONMENTS)
    assert max(map(len, lines)) <= 160


def test_says_all_of_one(monkeypatch, capsys):
    assert run(monkeypatch, "frozenlake8x8") == 0
    out = capsys.readouterr().out
    for words in ("Discrete 64", "0.9132", "200 steps", "twin of     FrozenLake8x8-v1", "separates"):
        assert words in out


def test_an_unknown_name_is_an_error(monkeypatch, capsys):
    assert run(monkeypatch, "nothing") == 2
    assert "no environment's name contains nothing" in capsys.readouterr().err


def test_is_a_command():
    done = subprocess.run([sys.executable, "-m", "gumbelrl.envs", "bandit"], capture_output=True, text=True, check=True)
    assert "gumbelrl/FactoredBandit-v0" in done.stdout


def test_every_row_is_complete():
    for row in listing():
        for name, text in vars(row).items():
            assert text.strip(), f"{row.name} has no {name}"


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Box(0, 1, (10, 10, 4), bool), "Box 10 × 10 × 4 bool"),
        (spaces.Discrete(5), "Discrete 5"),
        (spaces.MultiDiscrete([3] * 7), "MultiDiscrete 7 × 3"),
        (spaces.MultiDiscrete([3, 4]), "MultiDiscrete [3 4]"),
        (spaces.MultiBinary(8), "MultiBinary 8"),
    ],
)
def test_spaces_in_few_characters(space, text):
    assert describe_space(space) == text
