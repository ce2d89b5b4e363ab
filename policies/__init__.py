"""How a discrete action is sampled, and how a gradient flows back through the sample."""

from gumbelrl.policies.action_layout import ActionLayout
from gumbelrl.policies.categorical import CategoricalPolicy
from gumbelrl.policies.diagnostics import Diagnostics, diagnose
from gumbelrl.policies.estimators import ESTIMATORS, Estimate, Estimator, Value, register, temporary_registration
from gumbelrl.policies.head import PolicyHead
from gumbelrl.policies.learned_temperature import LearnedTemperature, StateTemperature
from gumbelrl.policies.pointer_head import PointerHead
from gumbelrl.policies.sampling import gumbel_noise, sample_one_hot
from gumbelrl.policies.temperature import SCHEDULES, format_temperature, parse_temperature

__all__ = [
    "ESTIMATORS",
    "SCHEDULES",
    "ActionLayout",
    "CategoricalPolicy",
    "Diagnostics",
    "Estimate",
    "Estimator",
    "LearnedTemperature",
    "PointerHead",
    "PolicyHead",
    "StateTemperature",
    "Value",
    "diagnose",
    "format_temperature",
    "gumbel_noise",
    "parse_temperature",
    "register",
    "sample_one_hot",
    "temporary_registration",
]
