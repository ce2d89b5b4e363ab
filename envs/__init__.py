"""What is acted on: batched discrete environments, and views of them for other libraries."""

from gumbelrl.envs.base import BatchedEnv, Step
from gumbelrl.envs.cartpole import CartPole
from gumbelrl.envs.conformance import check_batched_env, random_actions
from gumbelrl.envs.gymnasium_adapter import GymnasiumEnv
from gumbelrl.envs.native import NativeEnv
from gumbelrl.envs.registry import ENVIRONMENTS, EnvironmentEntry, make
from gumbelrl.envs.tabular import TabularEnv, TransitionTable, backward_induction, value_iteration
from gumbelrl.envs.views import SingleView, VectorView, register_all

# An explicit call: an import made for its side effect is removed by linters.
register_all()

__all__ = [
    "ENVIRONMENTS",
    "BatchedEnv",
    "CartPole",
    "EnvironmentEntry",
    "GymnasiumEnv",
    "NativeEnv",
    "SingleView",
    "Step",
    "TabularEnv",
    "TransitionTable",
    "VectorView",
    "backward_induction",
    "check_batched_env",
    "make",
    "random_actions",
    "register_all",
    "value_iteration",
]
