"""The weights of an SB3 model without pickle: safetensors and JSON, as gumbelrl's own checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gumbelrl.agents.checkpoint import flatten_state, load_checkpoint, save_checkpoint, unflatten_state
from gumbelrl.agents.sb3.algorithm import GumbelOffPolicyAlgorithm
from gumbelrl.agents.sb3.entropy import GumbelEntropyAlgorithm


def save_weights(model: GumbelOffPolicyAlgorithm, folder: str | Path) -> Path:
    """Write the weights and optimisers of a model as a gumbelrl checkpoint: safetensors and JSON, nothing to execute.

    Raises:
        FileExistsError: the folder exists.
    """
    state: dict[str, Any] = {name: _plain(part) for name, part in model.get_parameters().items()}
    if isinstance(model, GumbelEntropyAlgorithm):
        state["log_ent_coef"] = model.log_ent_coef
    tensors, rest = flatten_state(state)
    return save_checkpoint(Path(folder), tensors, {"sb3": _identity(model), "state": rest})


def load_weights(model: GumbelOffPolicyAlgorithm, folder: str | Path) -> None:
    """Put what `save_weights` wrote into a model that was made with the same arguments.

    Raises:
        ValueError: the checkpoint is damaged, or of another algorithm, estimator, critic or space.
    """
    checkpoint = load_checkpoint(Path(folder), device=model.device)
    saved, here = checkpoint.metadata.get("sb3"), _identity(model)
    if not isinstance(saved, dict):
        raise ValueError(f"{folder} is a checkpoint of a gumbelrl run: load it with gumbelrl, and go over by to_sb3")
    for name, value in here.items():
        if saved.get(name) != value:
            raise ValueError(f"{folder} holds a model with {name} {saved.get(name)}, this one has {value}")
    state = unflatten_state(checkpoint.tensors, checkpoint.metadata["state"])
    coefficient = state.pop("log_ent_coef", None)
    revived: dict[str, Any] = {name: _revive(part) for name, part in state.items()}
    model.set_parameters(revived, device=model.device)
    if isinstance(model, GumbelEntropyAlgorithm) and coefficient is not None:
        model.log_ent_coef.copy_(coefficient)


def _identity(model: GumbelOffPolicyAlgorithm) -> dict[str, str]:
    return {
        "algorithm": type(model).__name__,
        "estimator": model.estimator,
        "critic": model.critic_name,
        "action space": str(model.action_space),
        "observation space": str(model.observation_space),
    }


def _plain(state: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a state with text for keys, and lists as dictionaries, as a checkpoint takes them."""
    plain: dict[str, Any] = {}
    for key, value in state.items():
        if isinstance(value, list):
            value = {str(index): entry for index, entry in enumerate(value)}
        plain[str(key)] = _plain(value) if isinstance(value, Mapping) else value
    return plain


def _revive(state: dict[str, Any]) -> dict[str, Any]:
    """Undo `_plain` for a module's state or an optimiser's."""
    if "param_groups" not in state:
        return state
    moments = {int(key): value for key, value in state["state"].items()}
    return {"state": moments, "param_groups": [_revive_group(group) for group in state["param_groups"].values()]}


def _revive_group(group: dict[str, Any]) -> dict[str, Any]:
    # JSON has no tuples; Adam's betas are one.
    revived = {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()}
    return {**revived, "params": [group["params"][str(i)] for i in range(len(group["params"]))]}
