"""What is acted on: batched discrete environments, and views of them for other libraries."""

from gumbelrl.envs.base import BatchedEnv, NativeEnv, Step
from gumbelrl.envs.cartpole import CartPole
from gumbelrl.envs.gymnasium_adapter import GymnasiumEnv
from gumbelrl.envs.registry import ENVIRONMENTS, EnvironmentEntry, make
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
    "VectorView",
    "make",
    "register_all",
]
