"""The estimators: ways of sending a gradient through a discrete sample, one a file, under one contract."""

from gumbelrl.policies.estimators.base import (
    ESTIMATORS,
    Estimate,
    Estimator,
    Value,
    register,
    temporary_registration,
)
from gumbelrl.policies.estimators.exact import exact
from gumbelrl.policies.estimators.gumbel import gumbel
from gumbelrl.policies.estimators.gumbel_soft import gumbel_soft
from gumbelrl.policies.estimators.reinforce import reinforce
from gumbelrl.policies.estimators.softmax import softmax
from gumbelrl.policies.estimators.straight_through import straight_through

__all__ = [
    "ESTIMATORS",
    "Estimate",
    "Estimator",
    "Value",
    "exact",
    "gumbel",
    "gumbel_soft",
    "register",
    "reinforce",
    "softmax",
    "straight_through",
    "temporary_registration",
]
