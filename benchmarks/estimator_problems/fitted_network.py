"""A tanh or SiLU network fitted to values at vertices: the critic of the problems `parity` and `arms`."""

from __future__ import annotations

import torch
from torch import Tensor

from gumbelrl.agents.networks import FlatParameters, StackedMLP
from gumbelrl.policies import ESTIMATORS
from gumbelrl.random import RandomStreams


def fit(
    actions: Tensor, target: Tensor, *, seeds: int, hidden: tuple[int, ...], activation: str, steps: int = 3000
) -> tuple[StackedMLP, float]:
    """Return a network for each seed, and the largest error left.

    Args:
        actions: one-hot `[action, group, choice]`.
        target: `[action]`, or `[seed, action]`.
    """
    inputs = actions.flatten(1).expand(seeds, -1, -1)
    network = StackedMLP(
        RandomStreams(range(seeds)), inputs.shape[-1], 1, hidden=hidden, activation=activation, layer_norm=False
    )
    parameters = FlatParameters([network], num_members=seeds)
    optimizer = torch.optim.Adam([parameters.flat], lr=1e-2)
    for _ in range(steps):
        loss = (network(inputs).squeeze(-1) - target).square().mean(1).sum()
        parameters.flat.grad = parameters.gradient(loss)
        optimizer.step()
    return network, (network(inputs).squeeze(-1) - target).abs().max().item()


def climb(
    name: str,
    network: StackedMLP,
    *,
    seeds: int,
    shape: tuple[int, int],
    temperature: float,
    steps: int,
    batch: int = 64,
) -> Tensor:
    """Return the logits `[seed, 1, group, choice]` that an estimator reaches on a fitted network, from near uniform."""

    def value(action: Tensor) -> Tensor:
        return network(action.flatten(-2)).squeeze(-1)

    streams = RandomStreams(range(100, 100 + seeds))
    logits = (0.1 * streams.normal(1, *shape)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(steps):
        many = logits.expand(-1, batch, -1, -1)
        estimate = ESTIMATORS[name](many, value, temperature=temperature, generator=streams)
        optimizer.zero_grad()
        (-estimate.objective.mean(1).sum()).backward()
        optimizer.step()
    return logits.detach()
