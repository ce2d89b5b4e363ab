"""The estimators: ways of sending a gradient through a discrete sample, one a file, under one contract.

Every module of this folder is imported, so that a file with a function decorated by `register` is all that a new
estimator takes.
"""

import importlib
import pkgutil

from gumbelrl.policies.estimators.base import (
    ESTIMATORS,
    Estimate,
    Estimator,
    Value,
    register,
    temporary_registration,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ESTIMATORS", "Estimate", "Estimator", "Value", "register", "temporary_registration"]
