"""ddpg, td3 and sac: members apart, masks never broken, exploration, exact resume, and that they learn."""

import json
import math
import operator
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import AGENTS, CRITICS, RunError, Trainer
from gumbelrl.agents.checkpoint import load_checkpoint
from gumbelrl.agents.command_line import main
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.off_policy import OffPolicyAgent
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.replay import Batch
from gumbelrl.agents.td3 import smooth
from gumbelrl.envs import CartPole, make
from gumbelrl.policies import ESTIMATORS, ActionLayout, CategoricalPolicy, parse_temperature

NAMES = ["ddpg", "td3", "sac"]
SMALL = {
    "num_envs": 4,
    "updates_per_iteration": 2,
    "batch_size": 16,
    "learning_starts": 16,
    "replay_capacity": 64,
    "return_steps": 1,
    "hidden": (16,),
}


def make_agent(name, *, layout=None, seeds=(0,), num_features=4, policy="gumbel", critic="linear", **settings):
    entry = AGENTS[name]
    options = {key: settings.pop(key) for key in ("temperature", "observation_space") if key in settings}
    layout = layout or ActionLayout.from_space(spaces.Discrete(2))
    config = entry.config(**{**SMALL, **settings})
    agent = entry.agent(
        config, layout=layout, num_features=num_features, seeds=seeds, estimator=policy, critic=critic, **options
    )
    assert isinstance(agent, OffPolicyAgent)
    return agent


def make_trainer(name, seeds, *, total_steps=10_000, **options):
    agent = make_agent(name, seeds=seeds, **options)
    env = CartPole(len(seeds) * agent.config.num_envs)
    schedule = options.get("temperature", parse_temperature("1.0"))
    return Trainer(agent, env, seeds=seeds, total_steps=total_steps, temperature=schedule.value)


# Members -----------------------------------------------------------------------------------------------------------


def check_alone_and_together(name, iterations=10, **options):
    together, alone = (make_trainer(name, seeds, **options) for seeds in ((3, 4, 5), (4,)))
    for _ in range(iterations):
        ours, theirs = together.iterate(), alone.iterate()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key][1:2], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=key)
    assert together.agent.num_updates == 14
    for key, part in alone.agent._parts().items():
        many = together.agent._parts()[key].flat.unflatten(0, (3, -1))[1]
        torch.testing.assert_close(many, part.flat, rtol=1e-3, atol=1e-4, msg=key)
    for key, column in alone.agent.replay.columns.items():
        assert torch.equal(together.agent.replay.columns[key][1:2], column), key


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", NAMES)
def test_a_member_does_what_it_would_do_alone(name, critic):
    """Equal up to the order of additions in a batched product."""
    check_alone_and_together(name, critic=critic)


@pytest.mark.parametrize("policy", ESTIMATORS)
def test_a_member_does_what_it_would_do_alone_with_every_estimator(policy):
    check_alone_and_together("sac", policy=policy, critic="joint")


@pytest.mark.parametrize("name", NAMES)
def test_one_members_nan_stays_its_own(name):
    trainer = make_trainer(name, (0, 1))
    with torch.no_grad():
        for part in trainer.agent._parts().values():
            part.flat.unflatten(0, (2, -1))[0] = float("nan")
    for _ in range(6):
        trainer.iterate()
    for part in trainer.agent._parts().values():
        assert part.flat.unflatten(0, (2, -1))[1].isfinite().all()


# Masks -------------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "discrete": spaces.Discrete(4),
    "multi-discrete": spaces.MultiDiscrete([3, 2]),
    "multi-binary": spaces.MultiBinary(3),
}


def masked_batch(layout, *, members=1, size=64):
    """Each group's first choice is never valid, neither before nor after."""
    generator = torch.Generator().manual_seed(0)
    shape = (members, size, layout.num_groups, layout.num_choices)
    valid = torch.ones(shape, dtype=torch.bool)
    valid[..., 0] = False
    valid = layout.merge_mask(valid)
    action = CategoricalPolicy(torch.zeros(shape), valid).sample(generator=generator)
    return Batch(
        observation=torch.randn(members, size, 4, generator=generator),
        action=action,
        reward=torch.zeros(members, size),
        discount=torch.ones(members, size),
        next_observation=torch.randn(members, size, 4, generator=generator),
        mask=valid,
        next_mask=valid,
        probs=CategoricalPolicy(torch.zeros(shape), valid).probs,
    )


@pytest.mark.parametrize("space", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", NAMES)
def test_masked_actions_are_neither_bootstrapped_from_nor_climbed(name, critic, space):
    """A critic that gives them a fortune changes no target; what makes their logits gets exactly no gradient."""
    layout = ActionLayout.from_space(space)
    agent = make_agent(name, layout=layout, critic=critic, logit_penalty=0.01)
    batch = masked_batch(layout)
    agent.target_critic.forward = lambda observation: _Tempting(critic, layout)
    assert (agent.next_value(batch) < 100.0).all()
    agent._step(batch, climb=True)
    last_layer = list(agent.actor.last_layer.parameters())  # weight and bias, [member, in, group·choice]
    assert all(map(operator.is_, agent.actor_parameters.parameters[2:4], last_layer))
    sizes = [parameter.numel() for parameter in agent.actor_parameters.parameters]
    gradients = agent.actor_parameters.flat.grad.split(sizes, dim=1)[2:4]
    for parameter, gradient in zip(last_layer, gradients, strict=True):
        per_choice = gradient.view(parameter.shape).unflatten(-1, (layout.num_groups, layout.num_choices))
        valid = batch.mask[0, 0]
        assert (per_choice[..., ~valid] == 0).all()
        several = valid.sum(-1) > 1
        assert per_choice[..., several, :][..., valid[several]].abs().sum() > 0 or not several.any()


class _Tempting:
    """Critics that pay a million for each group's first choice, as far as it is chosen, and 1 a group otherwise."""

    def __init__(self, critic, layout):
        values = torch.ones(1, 64, layout.num_groups, layout.num_choices)
        values[..., 0] = 1e6
        self.values, self.expected = values, critic != "joint"

    def expected_lowest(self, policy, generator):
        point = policy.probs if self.expected else policy.sample(generator=generator)
        return (self.values * point).sum((-2, -1))


@pytest.mark.parametrize("critic", CRITICS)
@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_state_may_allow_nothing(name, critic):
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    agent = make_agent(name, layout=layout, critic=critic)
    batch = masked_batch(layout)
    batch = replace(batch, next_mask=torch.zeros_like(batch.next_mask), discount=torch.zeros_like(batch.discount))
    assert (batch.discount * agent.next_value(batch) == 0).all()
    agent._step(batch, climb=True)
    assert all(part.flat.isfinite().all() for part in agent._parts().values())


@pytest.mark.parametrize("name", NAMES)
def test_masked_actions_are_never_sampled_even_at_random(name):
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    agent = make_agent(name, layout=layout, epsilon=0.5, num_envs=512)
    agent.set_progress(0.0, temperature=1.0)
    mask = torch.tensor([[False, True, True], [True, True, True]]).expand(1, 512, 2, 3)
    policy = agent.policy(torch.randn(1, 512, 4), mask)
    action = policy.sample(noise=agent.rollout_noise()[0])
    assert (action[~policy.mask.expand_as(action)] == 0).all()
    assert action[..., 0, 1].sum() > 200
    assert action[..., 0, 2].sum() > 200


def test_smoothing_mixes_with_what_is_valid():
    mask = torch.tensor([[[[True, True, False], [False, True, False]]]])
    policy = CategoricalPolicy(torch.tensor([[[[100.0, 0.0, 0.0], [0.0, 5.0, 0.0]]]]), mask)
    wanted = torch.tensor([[[[0.9, 0.1, 0.0], [0.0, 1.0, 0.0]]]])
    torch.testing.assert_close(smooth(policy, 0.2).probs, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_an_environment_with_changing_masks_is_learned_from(name):
    env = make("gumbelrl/MultiButton-v0", num_envs=8)
    layout = ActionLayout.from_space(env.single_action_space)
    features = env.single_observation_space.shape[0]
    agent = make_agent(name, layout=layout, seeds=(0, 1), num_features=features, critic="multilinear", return_steps=2)
    trainer = Trainer(agent, env, seeds=(0, 1), total_steps=1000, temperature=lambda progress, step: 1.0)
    for _ in range(20):
        trainer.iterate()
    columns = agent.replay.columns
    held = columns["mask"][:, : int(agent.replay.size)]
    chosen = columns["action"][:, : int(agent.replay.size)].long().unsqueeze(-1)
    assert held.gather(-1, chosen).all()
    assert all(part.flat.isfinite().all() for part in agent._parts().values())


# Exploration and when learning starts -------------------------------------------------------------------------------


def test_epsilon_falls_in_a_straight_line_and_is_the_share_of_random_actions():
    agent = make_agent("sac", num_envs=4000, epsilon=0.6, final_epsilon=0.2)
    policy = CategoricalPolicy(torch.tensor([0.0, 50.0]).expand(1, 4000, 1, 2))
    for progress, epsilon in ((0.0, 0.6), (0.5, 0.4), (1.0, 0.2)):
        agent.set_progress(progress, temperature=1.0)
        action = policy.sample(noise=agent.rollout_noise()[0])
        # Half of the random actions are the policy's own.
        assert action[..., 0].mean().item() == pytest.approx(epsilon / 2, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_learning_rates_fall_in_a_straight_line_and_are_those_that_the_optimiser_uses(name):
    agent = make_agent(name, actor_learning_rate=4e-3, critic_learning_rate=2e-3)
    for progress in (0.0, 0.25, 1.0):
        agent.set_progress(progress, temperature=1.0)
        rates = [float(group["lr"]) for group in agent.optimizer.param_groups]
        assert rates == pytest.approx([4e-3 * (1 - progress), 2e-3 * (1 - progress)])
    batch = replace(masked_batch(agent.layout), mask=None, next_mask=None)
    before = {key: part.flat.detach().clone() for key, part in agent._parts().items()}
    agent._step(batch, climb=True)
    assert all(torch.equal(part.flat, before[key]) for key, part in agent._parts().items())
    constant = make_agent(name, actor_learning_rate=4e-3, anneal=False)
    constant.set_progress(0.9, temperature=1.0)
    assert float(constant.optimizer.param_groups[0]["lr"]) == pytest.approx(4e-3)


@pytest.mark.parametrize("name", NAMES)
def test_it_waits_until_learning_starts_and_says_the_same_things(name):
    trainer = make_trainer(name, (0, 1), learning_starts=12, updates_per_iteration=3)
    before = {key: part.flat.detach().clone() for key, part in trainer.agent._parts().items()}
    first, second = trainer.iterate(), trainer.iterate()
    assert all(torch.equal(part.flat, before[key]) for key, part in trainer.agent._parts().items())
    assert trainer.agent.num_updates == 0
    third = trainer.iterate()
    assert trainer.agent.num_updates == 3
    assert not any(torch.equal(part.flat, before[key]) for key, part in trainer.agent._parts().items())
    assert second.keys() == third.keys() <= first.keys()  # the first iteration also measures
    assert third["policy/probs"].shape[2:] == (1, 2)
    assert all(not value.isnan().any() for key, value in third.items() if key not in ("train/return", "train/length"))


def test_td3_moves_its_actor_and_targets_in_every_second_update():
    agent = make_agent("td3", updates_per_iteration=1)
    trainer = Trainer(agent, CartPole(4), seeds=(0,), total_steps=1000, temperature=lambda progress, step: 1.0)
    for _ in range(3):
        trainer.iterate()
    for _ in range(4):
        before = {key: part.flat.detach().clone() for key, part in agent._parts().items()}
        trainer.iterate()
        moved = {key for key, part in agent._parts().items() if not torch.equal(part.flat, before[key])}
        assert moved == (set(before) if agent.num_updates % 2 == 0 else {"critic"})


@pytest.mark.parametrize("name", NAMES)
def test_each_remedy_for_saturation_does_what_it_says(name):
    """From a saturated policy and a critic that is indifferent, so that nothing else moves the actor."""
    batch = masked_batch(ActionLayout.from_space(spaces.Discrete(3)))
    batch = replace(batch, mask=None, next_mask=None)

    def saturated(**settings):
        layout = ActionLayout.from_space(spaces.Discrete(3))
        agent = make_agent(name, layout=layout, policy="exact", **{"logit_bound": None, **settings})
        with torch.no_grad():
            agent.critic_parameters.flat.zero_()
            agent.actor.last_layer.bias.copy_(torch.tensor([8.0, 0.0, 0.0]))
        return agent, agent.policy(batch.observation, None).entropy().mean().item()

    for settings in ({"entropy_coefficient": 1.0, "target_entropy": 0.5}, {"logit_penalty": 1.0}):
        agent, before = saturated(**settings)
        for _ in range(20):
            with torch.no_grad():
                agent.critic_parameters.flat.zero_()
            agent._step(batch, climb=True)
        assert agent.policy(batch.observation, None).entropy().mean().item() > 1.05 * before


@pytest.mark.parametrize("name", NAMES)
def test_a_logit_bound_bounds_the_odds_whatever_the_number_of_choices(name):
    layout = ActionLayout.from_space(spaces.MultiDiscrete([2, 5, 1]))
    agent = make_agent(name, layout=layout, logit_bound=1.5)
    with torch.no_grad():
        agent.actor.last_layer.bias.copy_(torch.tensor([[100.0, -100.0, -100.0, -100.0, -100.0]] * 3).flatten())
    probs = agent.policy(torch.zeros(1, 1, 4), None).probs[0, 0, :, 0]
    odds = probs / (1 - probs)
    torch.testing.assert_close(odds[:2], torch.full((2,), math.exp(3.0)))
    assert probs[2] == 1


def test_the_entropy_coefficient_moves_towards_its_target_by_members():
    agent = make_agent("sac", seeds=(0, 1), target_entropy=0.5, coefficient_rate=0.1)
    start = agent.log_entropy_coefficient.clone()
    largest = torch.log(torch.tensor(2.0))
    agent._adapt_entropy_coefficient(torch.stack([0.25 * largest, largest]))
    torch.testing.assert_close(agent.log_entropy_coefficient - start, torch.tensor([0.025, -0.05]))
    # With masks, the largest entropy is that of the choices that are left: here none is.
    mask = torch.tensor([[[True, False]]]).expand(2, 3, 1, 2)
    agent._adapt_entropy_coefficient(torch.zeros(2), *agent._largest_entropy(mask))
    torch.testing.assert_close(agent.log_entropy_coefficient - start, torch.tensor([0.075, 0.0]))


# State -------------------------------------------------------------------------------------------------------------


def _clone(value):
    if isinstance(value, dict):
        return {name: _clone(each) for name, each in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": "relax", "critic": "joint", "return_steps": 3},
        {"temperature": parse_temperature("state:1.0"), "critic": "interpolated", "epsilon": 0.3},
        {"policy": "reinforce", "baseline": "moving-mean", "updates_per_iteration": 1},
    ],
    ids=["default", "relax, n steps", "state temperature, probabilities, epsilon", "moving mean, odd updates"],
)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("iterations", [2, 9], ids=["before learning", "after"])
def test_state_resumes_bit_for_bit(name, options, iterations):
    one, other = (make_trainer(name, (0, 1), **options) for _ in range(2))
    for _ in range(iterations):
        one.iterate()
    other.load_state_dict(_clone(one.state_dict()))
    for _ in range(5):
        ours, theirs = one.iterate(), other.iterate()
        for key, value in ours.items():
            assert torch.equal(value.nan_to_num(-1.0), theirs[key].nan_to_num(-1.0)), key
    for key, part in one.agent._parts().items():
        assert torch.equal(part.flat, other.agent._parts()[key].flat), key


# Learning ----------------------------------------------------------------------------------------------------------


def train(name, env, *, iterations, **options):
    settings: dict[str, Any] = {
        "num_envs": 8,
        "batch_size": 64,
        "replay_capacity": 10_000,
        "hidden": (32,),
        "polyak": 0.1,
    }
    layout = ActionLayout.from_space(env.single_action_space)
    features = num_features(env.single_observation_space)
    agent = make_agent(name, layout=layout, num_features=features, **{**settings, **options})
    trainer = Trainer(agent, env, seeds=(0,), total_steps=8 * iterations, temperature=lambda progress, step: 1.0)
    for _ in range(iterations):
        trainer.iterate()
    return agent


@pytest.mark.parametrize("name", NAMES)
def test_parity_of_four_bits_is_solved_by_multilinear_critics(name):
    """Greedy play pays 1, the optimum; one that knows nothing of the joint effect gets ½."""
    env = make("gumbelrl/ParityBandit-v0", num_envs=8)
    agent = train(name, env, iterations=300, critic="multilinear", target_entropy=0.1, entropy_coefficient=0.1)
    mode = agent.policy(torch.ones(1, 1, 1), None).mode
    assert mode[..., 1].sum().item() % 2 == 1


@pytest.mark.parametrize(("name", "return_steps"), [("ddpg", 1), ("td3", 3), ("sac", 1)])
def test_the_far_reward_of_a_chain_is_preferred(name, return_steps):
    """Always forward is optimal from every state; at the start it pays only after four steps, backward pays at once."""
    env = make("gumbelrl/Chain-v0", num_envs=8)
    options = {"discount": 0.98, "reward_scale": 0.1, "target_entropy": 0.5, "entropy_coefficient": 1.0}
    agent = train(name, env, iterations=500, return_steps=return_steps, **options)
    mode = agent.policy(torch.eye(5).unsqueeze(0), None).mode
    assert (mode[..., 0] == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_gumbel_solves_cartpole(name):
    """One seed of those that docs/results.md shows to succeed."""
    trainer = make_trainer(name, (0,), total_steps=100_000, **vars(AGENTS[name].config()))
    while not trainer.finished:
        metrics = trainer.iterate()
    assert metrics["train/return"].item() >= 475


# Settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sac", {"batch_size": 0}, "batch_size must be at least 1"),
        ("sac", {"return_steps": 0}, "return_steps must be at least 1"),
        ("sac", {"learning_starts": -1}, "learning_starts must not be negative"),
        ("sac", {"critic_learning_rate": 0.0}, "critic_learning_rate must be above 0"),
        ("sac", {"logit_bound": 0.0}, "logit_bound must be above 0"),
        ("sac", {"polyak": 0.0}, "targets would never learn"),
        ("sac", {"epsilon": 1.5}, "epsilon must be between 0 and 1"),
        ("sac", {"target_entropy": 0.0}, "SAC without entropy is --agent td3"),
        ("sac", {"activation": "gelu"}, "unknown activation 'gelu'; choose one of silu"),
        ("sac", {"baseline": "mean"}, "unknown baseline 'mean'"),
        ("ddpg", {"hidden": ()}, "at least one layer"),
        ("ddpg", {"num_samples": 0}, "num_samples must be at least 1"),
        ("td3", {"policy_delay": 0}, "policy_delay must be at least 1"),
        ("td3", {"smoothing": 2.0}, "smoothing must be between 0 and 1"),
    ],
)
def test_settings_are_checked(name, change, message):
    with pytest.raises(RunError, match=message):
        AGENTS[name].config(**change)


def test_a_temperature_without_a_gradient_cannot_be_learned():
    with pytest.raises(RunError, match="reinforce gives a temperature no gradient"):
        make_agent("sac", policy="reinforce", temperature=parse_temperature("learned:1.0"))


# Runs --------------------------------------------------------------------------------------------------------------

TINY = ["--num-envs", "4", "--batch-size", "8", "--learning-starts", "16", "--hidden", "8", "--track", "off"]
TINY += ["--total-steps", "64", "--seeds", "0", "1", "--evaluation-episodes", "2", "--checkpoint-interval", "32"]


@pytest.mark.parametrize(("name", "env"), [("ddpg", "FrozenLake-v1"), ("td3", "CartPole-v1"), ("sac", "FrozenLake-v1")])
def test_a_run_from_the_command_line_resumed_ends_with_the_same_bits(tmp_path, capsys, monkeypatch, name, env):
    monkeypatch.setattr(Experiment, "_plot", lambda self: None)  # half of the time
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*TINY, "--agent", name, "--env", env, "--return-steps", "2", "--output", str(whole)]) == 0
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-000000000064")
    (stopped / "results.json").unlink()
    assert main(["--resume", str(stopped)]) == 0
    assert "resuming" in capsys.readouterr().out
    ours, theirs = (load_checkpoint(folder / "checkpoints" / "step-000000000064") for folder in (stopped, whole))
    assert ours.tensors.keys() == theirs.tensors.keys()
    assert all(torch.equal(tensor, theirs.tensors[key]) for key, tensor in ours.tensors.items())
    results = [json.loads((folder / "results.json").read_text())["members"] for folder in (stopped, whole)]
    assert results[0] == results[1]
    if env == "FrozenLake-v1":
        assert ours.tensors["agent/replay/columns/observation"].dtype == torch.int8
