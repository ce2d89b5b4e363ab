"""Normalised observations: the statistics are right, each member's own, frozen in evaluation, and saved."""

import copy

import numpy as np
import pytest
import torch

from gumbelrl.agents import AGENTS, ActorCritic, ActorCriticConfig, Trainer, evaluate
from gumbelrl.agents.perception.normalisation import LARGEST, ObservationNormaliser
from gumbelrl.envs import CartPole
from gumbelrl.policies import ActionLayout

ROLLOUTS = [
    torch.randn(time, 2, 3, 4, generator=torch.Generator().manual_seed(time)) * 7 + torch.arange(4.0) * 1e4
    for time in (5, 1, 16)
]


def merged(rollouts):
    normaliser = ObservationNormaliser(rollouts[0].shape[1], 4)
    for rollout in rollouts:
        normaliser.merge(rollout)
    return normaliser


def test_merged_statistics_are_those_of_all_rows_together():
    rows = torch.cat(ROLLOUTS).transpose(0, 1).flatten(1, 2).double()
    normaliser = merged(ROLLOUTS)
    torch.testing.assert_close(normaliser.mean[:, 0], rows.mean(1), rtol=1e-12, atol=1e-9)
    torch.testing.assert_close(normaliser.variance[:, 0], rows.var(1, correction=0), rtol=1e-10, atol=0.0)
    assert normaliser.count == 22 * 3
    seen = normaliser(ROLLOUTS[2])
    want = (ROLLOUTS[2].double() - normaliser.mean) / normaliser.variance.sqrt()
    torch.testing.assert_close(seen, want.float(), rtol=0.0, atol=1e-3)


def test_they_are_those_of_stable_baselines3():
    """Its statistics start as if 10⁻⁴ observations of mean 0 and variance 1 had been made."""
    theirs = pytest.importorskip("stable_baselines3.common.running_mean_std").RunningMeanStd(epsilon=1e-12, shape=(4,))
    for rollout in ROLLOUTS:
        theirs.update(rollout[:, 1].flatten(0, 1).double().numpy())
    normaliser = merged(ROLLOUTS)
    np.testing.assert_allclose(normaliser.mean[1, 0], theirs.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(normaliser.variance[1, 0], theirs.var, rtol=1e-6)


def test_a_members_statistics_are_what_they_would_be_alone():
    together, alone = merged(ROLLOUTS), merged([rollout[:, 1:] for rollout in ROLLOUTS])
    assert torch.equal(together.mean[1:], alone.mean)
    assert torch.equal(together.variance[1:], alone.variance)


def test_nothing_is_changed_before_the_first_and_outliers_and_constants_are_harmless():
    normaliser = ObservationNormaliser(2, 4)
    observation = torch.randn(2, 3, 4)
    torch.testing.assert_close(normaliser(observation), observation)
    constant = torch.full((6, 2, 3, 4), 3.0)
    normaliser.merge(constant)
    assert (normaliser(constant) == 0).all()
    assert (normaliser(constant + 1.0) == LARGEST).all()


class FarAway(CartPole):
    """CartPole whose observations are shifted and scaled, so that a network sees almost nothing change."""

    def observe(self, state):
        return super().observe(state) * 100.0 + 1000.0


def make_trainer(seeds, **changes):
    settings = {"num_envs": 8, "rollout_steps": 8, "epochs": 2, "hidden": (16,), "normalise_observations": True}
    config = ActorCriticConfig(**{**settings, "diagnostics_interval": 2, **changes})
    env = FarAway(len(seeds) * config.num_envs)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = ActorCritic(config, layout=layout, num_features=4, seeds=seeds)
    return Trainer(agent, env, seeds=seeds, total_steps=24_576, temperature=lambda progress, step: 1.0)


def test_evaluation_leaves_the_statistics_as_they_are_and_learning_follows_what_was_seen():
    trainer = make_trainer((0, 1))
    normaliser = trainer.agent.perception.normaliser
    trainer.iterate()
    assert normaliser.count == 64
    before = normaliser.mean.clone()
    evaluate(trainer.agent, FarAway, seeds=(0, 1), episodes=4, greedy=False)
    assert torch.equal(normaliser.mean, before)
    trainer.iterate()
    assert normaliser.count == 128
    assert (normaliser.mean != before).any()


def test_a_member_learns_what_it_would_alone():
    together, alone = make_trainer((3, 4, 5)), make_trainer((4,))
    for _ in range(4):
        ours, theirs = together.iterate(), alone.iterate()
        assert torch.equal(together.observation[1], alone.observation[0])
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][1:2], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)


def test_the_statistics_are_saved():
    one, other = make_trainer((0, 1)), make_trainer((0, 1))
    for _ in range(3):
        one.iterate()
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.agent.perception.normaliser.variance, one.agent.perception.normaliser.variance)
    assert one.agent.perception.normaliser.count == other.agent.perception.normaliser.count == 192


OFF_POLICY = {
    "diagnostics_interval": 2,
    "learning_starts": 16,
    "batch_size": 8,
    "replay_capacity": 128,
    "hidden": (16,),
}
OTHERS = {
    "sac": OFF_POLICY,
    "td3": OFF_POLICY,
    "ddpg": OFF_POLICY,
    **{name: {"rollout_steps": 8, "hidden": (16,)} for name in ("ppo", "a2c", "reinforce")},
}


def make_other(name, **changes):
    entry = AGENTS[name]
    settings = {"num_envs": 8, "normalise_observations": True, **OTHERS[name], **changes}
    config = entry.config(**settings)
    env = FarAway(2 * config.num_envs)
    layout = ActionLayout.from_space(env.single_action_space)
    agent = entry.agent(config, layout=layout, num_features=4, seeds=(0, 1))
    return Trainer(agent, env, seeds=(0, 1), total_steps=24_576, temperature=lambda progress, step: 1.0)


@pytest.mark.parametrize("name", OTHERS)
def test_every_agent_sees_what_the_statistics_so_far_make_of_observations(name):
    """And acts by it, goes on exactly from a saved state, and finds it in an evaluation."""
    trainer, other = make_other(name), make_other(name)
    seen = []
    actor = trainer.agent.actor
    actor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    for _ in range(8):
        trainer.iterate()
    assert trainer.agent.perception.normaliser.count == 8 * 8 * trainer.agent.config.rollout_steps
    assert max(float(each.abs().max()) for each in seen[-4:]) <= LARGEST  # observations are around 1,000
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    trainer.iterate(), other.iterate()
    for one, two in zip(trainer.agent.actor.parameters(), other.agent.actor.parameters(), strict=True):
        assert torch.equal(one, two)
    evaluate(trainer.agent, FarAway, seeds=(0, 1), episodes=2, greedy=True)
    assert seen[-1].abs().max() <= LARGEST


def test_a_replay_keeps_observations_as_they_were():
    trainer = make_other("sac")
    for _ in range(6):
        trainer.iterate()
    drawn = trainer.agent.replay.sample(16, generator=trainer.agent.streams)
    assert drawn.observation.mean() > 900
    normaliser = trainer.agent.perception.normaliser
    torch.testing.assert_close(trainer.agent._normalised(drawn).next_observation, normaliser(drawn.next_observation))


def test_normalised_observations_are_learned_from_where_raw_ones_are_not():
    """Seeded, 24,576 steps; about 22 steps an episode are those of random play."""
    returns = {}
    for normalise in (True, False):
        changes = {"num_envs": 32, "rollout_steps": 32, "hidden": (32,), "diagnostics_interval": 0, "minibatches": 4}
        trainer = make_trainer((0,), normalise_observations=normalise, **changes)
        while not trainer.finished:
            metrics = trainer.iterate()
        returns[normalise] = metrics["train/return"].item()
    assert returns[True] > 1.5 * returns[False]
