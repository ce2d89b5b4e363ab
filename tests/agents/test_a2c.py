"""a2c learns problems whose optimum is known. Against stable-baselines3: see `test_score_function_reference.py`."""

import pytest
import torch

from gumbelrl.agents import Trainer
from gumbelrl.agents.a2c import A2C, A2CConfig
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.envs import make
from gumbelrl.policies import ActionLayout


def train(env_id, total_steps, *, seeds, config, **options):
    env = make(env_id, num_envs=len(seeds) * config.num_envs, **options)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = A2C(config, layout=layout, num_features=num_features(env.single_observation_space), seeds=seeds)
    trainer = Trainer(agent, env, seeds=seeds, total_steps=total_steps, temperature=lambda progress, step: 1.0)
    while not trainer.finished:
        metrics = trainer.iterate()
    return agent, env, metrics


def test_a2c_learns_sixteen_groups_at_once():
    """5^16 actions, one reward for all groups: the score function's noise over its gradient is 7.7 there."""
    _, env, metrics = train("gumbelrl/FactoredBandit-v0", 30_000, seeds=(0, 1), config=A2CConfig())
    assert (metrics["train/return"] > 0.99 * env.optimal_return).all()


@pytest.mark.parametrize(("trace", "least", "most"), [(1.0, 0.51, 0.66), (0.0, 0.95, 1.0)])
def test_n_steps_find_the_best_mixture_and_one_step_does_not(trace, least, most):
    """Sutton & Barto, example 13.1, where all states look alike: the best probability of right is 2 − √2 = .586.

    One step ahead of a value that cannot tell the states apart, right is always better, and its probability goes to 1.
    """
    config = A2CConfig(trace=trace, discount=1.0, hidden=(8,))
    agent, _, _ = train("gumbelrl/ShortCorridor-v0", 30_000, seeds=(0, 1), config=config)
    right = agent.policy(torch.ones(2, 1, 1), None).probs[:, 0, 0, 1]
    assert (right > least).all()
    assert (right < most).all()
