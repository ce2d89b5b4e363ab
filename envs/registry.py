"""The environments by name, and `make`, which takes those names and any gymnasium id."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium
import torch

from gumbelrl.envs.acrobot import Acrobot
from gumbelrl.envs.bandit import Bandit
from gumbelrl.envs.base import BatchedEnv
from gumbelrl.envs.bit_flip import BitFlip
from gumbelrl.envs.blackjack import Blackjack
from gumbelrl.envs.cartpole import CartPole
from gumbelrl.envs.chain import Chain
from gumbelrl.envs.cliff_walking import CliffWalking
from gumbelrl.envs.deep_sea import DeepSea
from gumbelrl.envs.frozen_lake import FrozenLake, FrozenLake8x8
from gumbelrl.envs.gymnasium_adapter import GymnasiumEnv
from gumbelrl.envs.memory import Memory
from gumbelrl.envs.minatar_asterix import MinAtarAsterix
from gumbelrl.envs.minatar_breakout import MinAtarBreakout
from gumbelrl.envs.minatar_freeway import MinAtarFreeway
from gumbelrl.envs.minatar_seaquest import MinAtarSeaquest
from gumbelrl.envs.minatar_space_invaders import MinAtarSpaceInvaders
from gumbelrl.envs.mountain_car import MountainCar
from gumbelrl.envs.multi_button import MultiButton
from gumbelrl.envs.native import NativeEnv
from gumbelrl.envs.pointer import Pointer
from gumbelrl.envs.river_swim import RiverSwim
from gumbelrl.envs.rock_paper_scissors import RockPaperScissors
from gumbelrl.envs.short_corridor import ShortCorridor
from gumbelrl.envs.speaker import Speaker
from gumbelrl.envs.taxi import Taxi


@dataclass(frozen=True)
class EnvironmentEntry:
    """A native environment.

    Attributes:
        factory: called with `num_envs`, `device` and the environment's own options.
        twin: id of the gymnasium environment that it equals step by step, if there is one.
        separates: which estimators or agents it tells apart.
        source: where the rules come from.
    """

    factory: Callable[..., NativeEnv]
    twin: str | None
    summary: str
    separates: str
    source: str


ENVIRONMENTS: dict[str, EnvironmentEntry] = {
    "gumbelrl/CartPole-v1": EnvironmentEntry(
        CartPole,
        "CartPole-v1",
        "keep a pole upright on a cart",
        "nothing: the control that all should solve",
        "Barto, Sutton & Anderson 1983; gymnasium CartPole-v1",
    ),
    "gumbelrl/Acrobot-v1": EnvironmentEntry(
        Acrobot,
        "Acrobot-v1",
        "swing the tip of a double pendulum above a line",
        "agents by how soon they get there at all: random play does once in seventy episodes",
        "Sutton 1996; gymnasium Acrobot-v1",
    ),
    "gumbelrl/MountainCar-v0": EnvironmentEntry(
        MountainCar,
        "MountainCar-v0",
        "drive out of a valley with an engine too weak for its slope",
        "exploration over many steps from noise that is independent in each, which never sees a flag",
        "Moore 1990; gymnasium MountainCar-v0",
    ),
    "gumbelrl/Blackjack-v1": EnvironmentEntry(
        Blackjack,
        "Blackjack-v1",
        "draw cards without exceeding 21, to come nearer than the dealer",
        "baselines and the variance of estimators: a game's return is almost all noise",
        "Sutton & Barto 2018, example 5.1; gymnasium Blackjack-v1",
    ),
    "gumbelrl/Memory-v0": EnvironmentEntry(
        Memory,
        None,
        "name, after a delay, the symbol that was shown at first",
        "agents with memory (1) from those without (1/2), whatever the estimator",
        "bsuite memory_len (Osband et al. 2020); the T-maze of Bakker 2001",
    ),
    "gumbelrl/Pointer-v0": EnvironmentEntry(
        Pointer,
        None,
        "pick the item most like a query among 2 to 10 of them; the others are masked",
        "heads that share weights between choices (PointerHead) from heads with an output for each",
        "the task is ours; pointing: Vinyals, Fortunato & Jaitly 2015",
    ),
    "gumbelrl/Bandit-v0": EnvironmentEntry(
        Bandit,
        None,
        "one step, 10 arms",
        "nothing: linear values, on which straight-through, softmax and the exact gradient agree",
        "Sutton & Barto 2018, chapter 2",
    ),
    "gumbelrl/CurvatureBandit-v0": EnvironmentEntry(
        partial(Bandit, kind="curvature"),
        None,
        "one step, 2 arms; a term that vanishes at hard actions bends the exported value function",
        "run on `value`: softmax and straight-through stall at ½ + gap/4c, reinmax and exact do not",
        "this project",
    ),
    "gumbelrl/ParityBandit-v0": EnvironmentEntry(
        partial(Bandit, kind="parity"),
        None,
        "one step, 4 bits; 1 for an odd number of ones",
        "critics that are joint in the bits; estimators that trust a network's slopes or its interior (softmax worst)",
        "this project",
    ),
    "gumbelrl/FactoredBandit-v0": EnvironmentEntry(
        partial(Bandit, kind="factored"),
        None,
        "one step, 16 groups of 5 choices, rewards add up",
        "the score function's noise grows as the square root of the groups, that of pathwise estimators does not",
        "this project",
    ),
    "gumbelrl/PairwiseBandit-v0": EnvironmentEntry(
        partial(Bandit, kind="pairwise"),
        None,
        "one step, 16 groups of 5 choices, neighbours interact",
        "multilinear and joint critics from those that are a sum over groups",
        "this project; optimum by Viterbi 1967",
    ),
    "gumbelrl/ManyArms-v0": EnvironmentEntry(
        partial(Bandit, num_choices=1000),
        None,
        "one step, 1,000 arms",
        "exploration, and estimators whose cost or noise grows with the number of choices",
        "Sutton & Barto 2018, chapter 2",
    ),
    "gumbelrl/RockPaperScissors-v0": EnvironmentEntry(
        RockPaperScissors,
        None,
        "100 rounds against the best response to what was played so far",
        "agents that keep mixing from those that collapse to one action, which loses every round",
        "Brown 1951",
    ),
    "gumbelrl/MultiButton-v0": EnvironmentEntry(
        MultiButton,
        None,
        "press a button in each of 3 rows so that they sum to a target; pressed buttons stay down",
        "joint critics from those that are a sum over groups; masks that change at every step",
        "this project",
    ),
    "gumbelrl/BitFlip-v0": EnvironmentEntry(
        BitFlip,
        None,
        "flip any of 8 bits a step until they equal a goal",
        "exploration with many binary variables: one action of 256 pays; with reward='distance', noise over groups",
        "Andrychowicz et al. 2017",
    ),
    "gumbelrl/Speaker-v0": EnvironmentEntry(
        Speaker,
        None,
        "say two symbols 70 and 30 times in 100, as a hidden source does",
        "keeping a mixed policy: the most frequent symbol always is worse than a coin, matching is best",
        "Gretton et al. 2012; Gneiting & Raftery 2007",
    ),
    "gumbelrl/MinAtar-Breakout-v1": EnvironmentEntry(
        MinAtarBreakout,
        "MinAtar/Breakout-v1",
        "keep a ball in play with a paddle, and break bricks",
        "how far back credit reaches: a reward comes about ten steps after its action, with little noise between",
        "Young & Tian 2019, arXiv:1903.03176; the package minatar 1.0.15",
    ),
    "gumbelrl/MinAtar-Freeway-v1": EnvironmentEntry(
        MinAtarFreeway,
        "MinAtar/Freeway-v1",
        "cross eight lanes of cars, again and again",
        "exploration: rewards are rare, and need nine moves in one direction",
        "Young & Tian 2019, arXiv:1903.03176; the package minatar 1.0.15",
    ),
    "gumbelrl/MinAtar-Asterix-v1": EnvironmentEntry(
        MinAtarAsterix,
        "MinAtar/Asterix-v1",
        "collect gold, avoid enemies that come from the sides, ever faster",
        "noisy critics, and estimators that trust their slope: five choices that mostly earn the same, or end the game",
        "Young & Tian 2019, arXiv:1903.03176; the package minatar 1.0.15",
    ),
    "gumbelrl/MinAtar-SpaceInvaders-v1": EnvironmentEntry(
        MinAtarSpaceInvaders,
        "MinAtar/SpaceInvaders-v1",
        "shoot marching aliens and dodge their bombs, on a 10 × 10 board",
        "agents by how far credit reaches, under little noise: a shot pays up to nine steps later",
        "Young & Tian 2019, arXiv:1903.03176; the package minatar 1.0.15",
    ),
    "gumbelrl/MinAtar-Seaquest-v1": EnvironmentEntry(
        MinAtarSeaquest,
        "MinAtar/Seaquest-v1",
        "shoot fish and submarines, rescue divers, come up for air",
        "exploration with long credit: to last beyond 200 steps takes a diver and the surface, which pay nothing",
        "Young & Tian 2019, arXiv:1903.03176; the package minatar 1.0.15",
    ),
    "gumbelrl/FrozenLake-v1": EnvironmentEntry(
        FrozenLake,
        "FrozenLake-v1",
        "cross a frozen lake that does not let you go where you want",
        "agents that keep exploring until the first rare reward from those that give up",
        "gymnasium FrozenLake-v1",
    ),
    "gumbelrl/FrozenLake8x8-v1": EnvironmentEntry(
        FrozenLake8x8,
        "FrozenLake8x8-v1",
        "the larger lake",
        "as FrozenLake-v1, with a reward that random play meets in few episodes",
        "gymnasium FrozenLake8x8-v1",
    ),
    "gumbelrl/Taxi-v4": EnvironmentEntry(
        Taxi,
        "Taxi-v4",
        "fetch a passenger and bring them where they want to go",
        "exploration and credit over subgoals; what agents make of masks (option `action_masks`)",
        "Dietterich 2000; gymnasium Taxi-v4",
    ),
    "gumbelrl/CliffWalking-v1": EnvironmentEntry(
        CliffWalking,
        "CliffWalking-v1",
        "walk along the edge of a cliff",
        "on-policy agents, which keep away from the edge while they explore, from off-policy ones",
        "Sutton & Barto 2018, example 6.6; gymnasium CliffWalking-v1",
    ),
    "gumbelrl/CliffWalkingSlippery-v1": EnvironmentEntry(
        partial(CliffWalking, is_slippery=True),
        "CliffWalkingSlippery-v1",
        "walk along a cliff on slippery ground",
        "critics that stand rare rewards of -100 from those that do not",
        "gymnasium CliffWalkingSlippery-v1",
    ),
    "gumbelrl/RiverSwim-v0": EnvironmentEntry(
        RiverSwim,
        None,
        "swim against the current to a large reward, or drift to a small one",
        "exploration: from random play one learns to drift",
        "Strehl & Littman 2008; numbers of Osband, Russo & Van Roy 2013",
    ),
    "gumbelrl/DeepSea-v0": EnvironmentEntry(
        DeepSea,
        None,
        "find the treasure that takes the right action at each of N steps",
        "exploration: undirected, it needs 2^N episodes",
        "Osband, Van Roy, Russo & Wen 2019; bsuite",
    ),
    "gumbelrl/Chain-v0": EnvironmentEntry(
        Chain,
        None,
        "a small reward now or a large one at the end of a chain",
        "far-sighted agents from short-sighted ones",
        "Strens 2000; gym NChain-v0",
    ),
    "gumbelrl/ShortCorridor-v0": EnvironmentEntry(
        ShortCorridor,
        None,
        "three places that look the same, one of which turns the actions round",
        "stochastic policies from greedy ones; critics on whole returns from bootstrapped ones",
        "Sutton & Barto 2018, example 13.1",
    ),
}


def native_entry(env_id: str) -> EnvironmentEntry | None:
    """Return the native environment of that name, or the native twin of that gymnasium id."""
    name = env_id.removeprefix("gumbelrl.envs:")
    if name in ENVIRONMENTS:
        return ENVIRONMENTS[name]
    return next((entry for entry in ENVIRONMENTS.values() if entry.twin == env_id), None)


def make(
    env_id: str,
    *,
    num_envs: int,
    device: torch.device | str = "cpu",
    native: bool = True,
    compile: bool | Literal["auto"] = "auto",
    **options: Any,
) -> BatchedEnv:
    """Return a batch of environments.

    Args:
        env_id: a name of `ENVIRONMENTS` or any gymnasium id, `module:id` included.
        native: use our twin of a gymnasium environment where there is one.
        compile: whether steps of native environments are compiled, see `NativeEnv.compile`; "auto" compiles once they
            have taken so long that it pays.
        options: passed to the environment.

    Raises:
        ValueError: there is no such environment (the message names the nearest), a package that it needs is missing,
            or `compile` is something else.
    """
    entry = native_entry(env_id)
    if compile not in (True, False, "auto"):
        raise ValueError(f"compile is True, False or 'auto', got {compile!r}")
    if entry is not None and (native or env_id in ENVIRONMENTS):
        env = entry.factory(num_envs, device=device, **options)
        env.compile = compile
        return env
    try:
        return GymnasiumEnv(env_id, num_envs, device=device, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        extra = "box2d" if "box2d" in str(error).lower() else None
        advice = f"pip install 'gumbelrl[{extra}]'" if extra else "install what it names"
        raise ValueError(f"{env_id} needs a package that is not installed: {advice} ({error})") from error
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"unknown environment {env_id!r}: {_nearest(env_id)} ({error})") from error


def _nearest(env_id: str) -> str:
    twins = [entry.twin for entry in ENVIRONMENTS.values() if entry.twin]
    known = dict.fromkeys([*ENVIRONMENTS, *twins, *gymnasium.registry])  # each once: gymnasium knows ours too
    near = difflib.get_close_matches(env_id, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "use a gymnasium id or one of " + ", ".join(ENVIRONMENTS)
