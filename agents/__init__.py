"""What learns: networks, agents, and the loop that feeds them."""

from gumbelrl.agents.actor_critic import ActorCritic, ActorCriticConfig
from gumbelrl.agents.critics import CRITICS
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.training import Trainer

__all__ = ["AGENTS", "CRITICS", "ActorCritic", "ActorCriticConfig", "RunError", "Trainer", "evaluate"]
