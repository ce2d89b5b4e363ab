"""How good a policy is: whole episodes in fresh environments, sampled and greedy apart."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from gumbelrl.agents.base import Agent
from gumbelrl.agents.observations import to_features
from gumbelrl.agents.training import env_seeds, split_mask
from gumbelrl.envs import BatchedEnv
from gumbelrl.random import RandomStreams, derive_seed

LONGEST_EPISODE = 100_000


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
    mask = split_mask(agent.layout, env.info, "action_mask", members)
    streams = RandomStreams([derive_seed(seed, "evaluation") for seed in seeds], device=env.device)
    returns = torch.zeros(members * episodes, device=env.device)
    running = torch.ones_like(returns, dtype=torch.bool)
    for t in range(env.max_episode_steps or LONGEST_EPISODE):
        features = to_features(env.single_observation_space, observation).unflatten(0, (members, episodes))
        policy = agent.policy(features, mask)
        action = policy.mode if greedy else policy.sample(generator=streams)
        step = env.step(agent.layout.from_one_hot(action).flatten(0, 1))
        returns += step.reward * running
        running &= ~(step.terminated | step.truncated)
        observation, mask = step.observation, split_mask(agent.layout, step.info, "action_mask", members)
        if t % 16 == 15 and not bool(running.any()):
            break
    env.close()
    return returns.view(members, episodes)
