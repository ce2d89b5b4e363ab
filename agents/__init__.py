"""What learns: networks, agents, and the loop that feeds them."""

from gumbelrl.agents.actor_critic import ActorCritic, ActorCriticConfig
from gumbelrl.agents.base import Agent
from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.ddpg import DDPG, DDPGConfig
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.replay import Replay
from gumbelrl.agents.sac import SAC, SACConfig
from gumbelrl.agents.td3 import TD3, TD3Config
from gumbelrl.agents.training import Trainer

__all__ = [
    "AGENTS",
    "CRITICS",
    "DDPG",
    "SAC",
    "TD3",
    "ActorCritic",
    "ActorCriticConfig",
    "Agent",
    "DDPGConfig",
    "Replay",
    "RunError",
    "SACConfig",
    "TD3Config",
    "Trainer",
    "evaluate",
]
