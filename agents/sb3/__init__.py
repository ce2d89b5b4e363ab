"""Off-policy algorithms for discrete actions as stable-baselines3 users know them; imports stable-baselines3."""

from gumbelrl.agents.sb3.exchange import from_sb3, to_sb3
from gumbelrl.agents.sb3.masks import ReportMasks
from gumbelrl.agents.sb3.policy import GumbelCnnPolicy, GumbelMultiInputPolicy, GumbelPolicy
from gumbelrl.agents.sb3.replay import MaskedDictReplayBuffer, MaskedHerReplayBuffer, MaskedReplayBuffer
from gumbelrl.agents.sb3.sac import GumbelSAC
from gumbelrl.agents.sb3.td3 import GumbelDDPG, GumbelTD3
from gumbelrl.agents.sb3.weights import load_weights, save_weights

__all__ = [
    "GumbelCnnPolicy",
    "GumbelDDPG",
    "GumbelMultiInputPolicy",
    "GumbelPolicy",
    "GumbelSAC",
    "GumbelTD3",
    "MaskedDictReplayBuffer",
    "MaskedHerReplayBuffer",
    "MaskedReplayBuffer",
    "ReportMasks",
    "from_sb3",
    "load_weights",
    "save_weights",
    "to_sb3",
]
