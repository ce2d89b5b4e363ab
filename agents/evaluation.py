"""How good a policy is: whole episodes in fresh environments, sampled and greedy apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.base import Agent
from gumbelrl.agents.perception.observations import action_mask, to_features
from gumbelrl.agents.perception.steps import Perception
from gumbelrl.agents.training import env_seeds, forget, split_mask
from gumbelrl.envs import BatchedEnv
from gumbelrl.random import RandomStreams, derive_seed

LONGEST_EPISODE = 100_000
KINDS = ("sampled", "greedy")
RETURNS = tuple(f"eval/{kind}_return" for kind in KINDS)


@torch.no_grad()
def evaluate(
    agent: Agent,
    make_env: Callable[[int], BatchedEnv],
    *,
    seeds: tuple[int, ...],
    episodes: int,
    greedy: bool,
) -> Float[Tensor, "member episode"]:
    """Return the return of the first episode of each of `episodes` environments a member.

    One episode an environment: stopping at the first hundred to end would favour short ones.

    Args:
        make_env: number of environments -> environments.
        greedy: take the most probable action instead of sampling one.
    """
    members = len(seeds)
    env = make_env(members * episodes)
    observation = env.reset(env_seeds(seeds, episodes, "evaluation"))
    mask = split_mask(agent.layout, action_mask(observation, env.info), members)
    perception = agent.perception or Perception()
    memory = perception.initial(episodes)
    streams = RandomStreams([derive_seed(seed, "evaluation") for seed in seeds], device=env.device)
    returns = torch.zeros(members * episodes, device=env.device)
    running = torch.ones_like(returns, dtype=torch.bool)
    for t in range(env.max_episode_steps or LONGEST_EPISODE):
        features = to_features(env.single_observation_space, observation).unflatten(0, (members, episodes))
        # A greedy policy is so throughout: discrete gates take their likelier value too.
        gate_noise = None if greedy else perception.noise(1, episodes, generator=streams)
        features, memory = perception(features, memory, None if gate_noise is None else gate_noise[0])
        policy = agent.policy(features, mask)
        action = policy.mode if greedy else policy.sample(generator=streams)
        step = env.step(agent.layout.from_one_hot(action.flatten(0, 1)))
        returns += step.reward * running
        ended = step.terminated | step.truncated
        running &= ~ended
        memory = forget(memory, ended.view(members, episodes))
        observation = step.observation
        mask = split_mask(agent.layout, action_mask(observation, step.info), members)
        if t % 16 == 15 and not bool(running.any()):
            break
    env.close()
    return returns.view(members, episodes)


def evaluate_both(
    agent: Agent, make_env: Callable[[int], BatchedEnv], *, seeds: tuple[int, ...], episodes: int
) -> dict[str, Float[np.ndarray, "member episode"]]:
    """Return the returns of `evaluate` with sampled and with greedy actions, by `KINDS`."""
    return {
        kind: evaluate(agent, make_env, seeds=seeds, episodes=episodes, greedy=kind == "greedy").cpu().numpy()
        for kind in KINDS
    }


def summarise_returns(returns: Mapping[str, Float[np.ndarray, "member episode"]]) -> list[dict[str, float]]:
    """Return, for each member, the mean and the standard deviation over its episodes."""
    members = len(next(iter(returns.values())))
    return [
        {
            name: float(number)
            for kind, values in returns.items()
            for name, number in (
                (f"eval/{kind}_return", values[member].mean()),
                (f"eval/{kind}_return_std", values[member].std()),
            )
        }
        for member in range(members)
    ]
