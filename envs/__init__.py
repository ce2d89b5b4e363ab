"""What is acted on: batched discrete environments, and views of them for other libraries."""

from gumbelrl.envs.acrobot import Acrobot
from gumbelrl.envs.bandit import Bandit
from gumbelrl.envs.base import BatchedEnv, Step
from gumbelrl.envs.bit_flip import BitFlip
from gumbelrl.envs.blackjack import Blackjack
from gumbelrl.envs.cartpole import CartPole
from gumbelrl.envs.chain import Chain
from gumbelrl.envs.cliff_walking import CliffWalking
from gumbelrl.envs.conformance import check_batched_env, random_actions
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
from gumbelrl.envs.one_hot_actions import OneHotActions, OneHotBox
from gumbelrl.envs.pointer import Pointer
from gumbelrl.envs.registry import ENVIRONMENTS, EnvironmentEntry, make
from gumbelrl.envs.river_swim import RiverSwim
from gumbelrl.envs.rock_paper_scissors import RockPaperScissors
from gumbelrl.envs.short_corridor import ShortCorridor
from gumbelrl.envs.speaker import Speaker
from gumbelrl.envs.tabular import (
    TabularEnv,
    TransitionTable,
    backward_induction,
    policy_values,
    relative_value_iteration,
    value_iteration,
)
from gumbelrl.envs.taxi import Taxi
from gumbelrl.envs.views import SingleView, VectorView, register_all

# An explicit call: an import made for its side effect is removed by linters.
register_all()

__all__ = [
    "ENVIRONMENTS",
    "Acrobot",
    "Bandit",
    "BatchedEnv",
    "BitFlip",
    "Blackjack",
    "CartPole",
    "Chain",
    "CliffWalking",
    "DeepSea",
    "EnvironmentEntry",
    "FrozenLake",
    "FrozenLake8x8",
    "GymnasiumEnv",
    "Memory",
    "MinAtarAsterix",
    "MinAtarBreakout",
    "MinAtarFreeway",
    "MinAtarSeaquest",
    "MinAtarSpaceInvaders",
    "MountainCar",
    "MultiButton",
    "NativeEnv",
    "OneHotActions",
    "OneHotBox",
    "Pointer",
    "RiverSwim",
    "RockPaperScissors",
    "ShortCorridor",
    "SingleView",
    "Speaker",
    "Step",
    "TabularEnv",
    "Taxi",
    "TransitionTable",
    "VectorView",
    "backward_induction",
    "check_batched_env",
    "make",
    "policy_values",
    "random_actions",
    "register_all",
    "relative_value_iteration",
    "value_iteration",
]
