"""RL Baselines3 Zoo with GumbelSAC, GumbelTD3 and GumbelDDPG among its algorithms.

    python -m gumbelrl.agents.sb3.zoo rl_zoo3.train --algo gumbel_sac --env CartPole-v1 --conf-file examples/rl_zoo.yml

runs a module of the zoo (`rl_zoo3.train`, `rl_zoo3.enjoy`, …) as `python -m` does, after adding the algorithms; in a
script of your own `import gumbelrl.agents.sb3.zoo` and `register()` come before the zoo's `train()`.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from typing import Any

from gumbelrl.agents.sb3.sac import GumbelSAC
from gumbelrl.agents.sb3.td3 import GumbelDDPG, GumbelTD3

ALGORITHMS: dict[str, Any] = {"gumbel_sac": GumbelSAC, "gumbel_td3": GumbelTD3, "gumbel_ddpg": GumbelDDPG}


def register() -> None:
    """Add the algorithms to the zoo's table, `rl_zoo3.ALGOS`.

    Raises:
        ModuleNotFoundError: the zoo is not installed.
    """
    try:
        zoo = importlib.import_module("rl_zoo3")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"RL Baselines3 Zoo is not installed ({error}): pip install rl_zoo3") from error
    zoo.ALGOS.update(ALGORITHMS)


def main(words: list[str]) -> None:
    """Run the module of the zoo that the first word names, with the other words for its arguments."""
    if not words or not words[0].startswith("rl_zoo3."):
        raise SystemExit(
            "name a module of the zoo and its options, such as:\n"
            "  python -m gumbelrl.agents.sb3.zoo rl_zoo3.train --algo gumbel_sac --env CartPole-v1 "
            "--conf-file examples/rl_zoo.yml"
        )
    register()
    sys.argv = words
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
