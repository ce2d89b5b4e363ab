"""What an agent gives an estimator: temperature, baseline, control variate; and what it measures of it."""

from dataclasses import replace

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import ActorCritic, ActorCriticConfig, RunError, Trainer
from gumbelrl.agents.registry import POLICY_PRESETS, resolve_policy
from gumbelrl.envs import CartPole
from gumbelrl.policies import ESTIMATORS, ActionLayout, parse_temperature

SMALL = ActorCriticConfig(num_envs=4, rollout_steps=8, epochs=1, minibatches=2, hidden=(16,), diagnostics_interval=1)


def make_trainer(seeds=(0, 1), *, temperature="1.0", policy="gumbel", critic="linear", config=SMALL):
    env = CartPole(len(seeds) * config.num_envs)
    schedule = parse_temperature(temperature)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=4,
        seeds=seeds,
        estimator=policy,
        critic=critic,
        temperature=schedule,
    )
    return Trainer(agent, env, seeds=seeds, total_steps=1000, temperature=schedule.value)


@pytest.mark.parametrize("temperature", ["learned:0.8", "state:0.8"])
def test_a_learned_temperature_is_learned_by_each_member_for_itself(temperature):
    together, alone = make_trainer((3, 4), temperature=temperature), make_trainer((4,), temperature=temperature)
    for _ in range(4):
        metrics, single = together.iterate(), alone.iterate()
    shown = metrics["policy/temperature"]
    assert shown.shape == (2,)
    assert (shown != 0.8).all()
    torch.testing.assert_close(shown[1:], single["policy/temperature"])


def test_a_temperature_without_a_gradient_cannot_be_learned():
    with pytest.raises(RunError, match="reinforce gives a temperature no gradient"):
        make_trainer(temperature="learned:1.0", policy="reinforce")


def test_a_schedule_is_followed():
    trainer = make_trainer(temperature="linear:1.0:0.5")
    temperatures = [trainer.iterate()["policy/temperature"][0].item() for _ in range(4)]
    assert temperatures == pytest.approx([1.0, 0.984, 0.968, 0.952])


@pytest.mark.parametrize("policy", ESTIMATORS)
@pytest.mark.parametrize("critic", ["linear", "joint"])
def test_diagnostics_are_measured_for_each_member_and_change_nothing(policy, critic):
    measured = make_trainer(policy=policy, critic=critic)
    plain = make_trainer(policy=policy, critic=critic, config=replace(SMALL, diagnostics_interval=0))
    metrics = measured.iterate()
    plain.iterate()
    for name in ("bias", "variance", "signal_to_noise", "cosine"):
        assert metrics[f"gradient/{name}"].shape == (2,)
        assert not metrics[f"gradient/{name}"].isnan().any()
    assert torch.equal(measured.agent.flat, plain.agent.flat)
    if critic == "linear" and ESTIMATORS[policy].noise == "none":
        torch.testing.assert_close(metrics["gradient/cosine"], torch.ones(2))


@pytest.mark.parametrize("baseline", ["none", "mean-action", "self-critical", "moving-mean"])
def test_every_baseline_trains_reinforce(baseline):
    trainer = make_trainer(policy="reinforce", config=replace(SMALL, baseline=baseline))
    before = trainer.agent.flat.detach().clone()
    trainer.iterate()
    assert trainer.agent.flat.isfinite().all()
    assert (trainer.agent.flat != before).any()
    assert (trainer.agent.path.moving_mean != 0).all() == (baseline == "moving-mean")


def test_relaxs_control_is_learned_and_does_not_decide_how_the_rest_is_clipped():
    trainer = make_trainer(policy="relax", critic="joint")
    agent = trainer.agent
    assert 0 < agent.num_clipped < agent.flat.shape[1]
    control = agent.flat[:, agent.num_clipped :].detach().clone()
    trainer.iterate()
    assert (agent.flat[:, agent.num_clipped :] != control).any()
    assert make_trainer(policy="rebar").agent.num_clipped == make_trainer(policy="rebar").agent.flat.shape[1]


@pytest.mark.parametrize("options", [{"policy": "relax"}, {"temperature": "state:1.0"}, {"policy": "reinforce"}])
def test_state_resumes_bit_for_bit(options):
    config = replace(SMALL, baseline="moving-mean")
    one, other = make_trainer(config=config, **options), make_trainer(config=config, **options)
    for _ in range(2):
        one.iterate()
    other.load_state_dict(_clone(one.state_dict()))
    ours, theirs = one.iterate(), other.iterate()
    assert torch.equal(one.agent.flat, other.agent.flat)
    for name, value in ours.items():
        assert torch.equal(value.nan_to_num(), theirs[name].nan_to_num()), name


def _clone(value):
    if isinstance(value, dict):
        return {name: _clone(each) for name, each in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_num_samples_reaches_the_estimator():
    agent = make_trainer(policy="rloo", config=replace(SMALL, num_samples=6)).agent
    observation = torch.zeros(2, 5, 4)
    estimate, _ = agent.path(observation, agent.logits(observation), agent.critic(observation), None, agent.streams)
    assert estimate.action.shape == (6, 2, 5, 1, 2)
    with pytest.raises(RunError, match="num_samples must be at least 1"):
        replace(SMALL, num_samples=0)
    with pytest.raises(RunError, match="unknown baseline"):
        replace(SMALL, baseline="mean")


def test_presets_name_an_estimator_and_a_critic():
    assert resolve_policy("gumbel", "joint") == ("gumbel", "joint")
    assert resolve_policy("distributions-as-actions", "linear") == ("softmax", "interpolated")
    assert resolve_policy("distributions-as-actions", "interpolated") == ("softmax", "interpolated")
    with pytest.raises(RunError, match="use --policy softmax"):
        resolve_policy("distributions-as-actions", "joint")
    with pytest.raises(RunError, match="did you mean distributions-as-actions"):
        resolve_policy("distribution-as-action", "linear")
    assert not set(POLICY_PRESETS) & set(ESTIMATORS)


@pytest.mark.parametrize("policy", ESTIMATORS)
def test_factored_and_masked_actions_update_with_every_estimator(policy):
    """MultiDiscrete [3, 2, 4] with a dynamic mask; the linear critic keeps `exact` possible."""
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2, 4]))
    agent = ActorCritic(SMALL, layout=layout, num_features=5, seeds=(0, 1), estimator=policy)
    mask = torch.ones(2, 6, 3, 4, dtype=torch.bool)
    mask[..., 0, 0] = False
    observation = torch.randn(2, 6, 5)
    merged = layout.merge_mask(mask)
    logits = agent.logits(observation).detach().requires_grad_()
    estimate, _ = agent.path(observation, logits, agent.critic(observation), merged, agent.streams)
    (gradient,) = torch.autograd.grad(estimate.objective.sum(), logits)
    assert (gradient[~merged] == 0).all()
    assert gradient[merged].abs().sum() > 0
    assert gradient.isfinite().all()
