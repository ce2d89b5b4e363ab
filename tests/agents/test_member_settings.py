"""Members of one population with settings of their own are what each would be alone with that setting."""

import copy

import pytest
import torch

from gumbelrl.agents import AGENTS, RunError, Trainer
from gumbelrl.agents.member_settings import MemberTemperatures, vary
from gumbelrl.agents.optimisers import Adam, RMSprop
from gumbelrl.envs import CartPole
from gumbelrl.policies import ESTIMATORS, ActionLayout, parse_temperature

SEEDS = (3, 4, 3)
SMALL = {
    "actor-critic": {"num_envs": 4, "rollout_steps": 8, "epochs": 2, "minibatches": 2, "hidden": (16,)},
    "ppo": {"num_envs": 4, "rollout_steps": 8, "epochs": 2, "minibatches": 2, "hidden": (16,)},
    "a2c": {"num_envs": 4, "rollout_steps": 8, "hidden": (16,)},
    "reinforce": {"num_envs": 4, "rollout_steps": 8, "hidden": (16,), "partial": "bootstrap"},
}
OFF_POLICY = {"num_envs": 4, "batch_size": 16, "learning_starts": 16, "replay_capacity": 64, "hidden": (16,)}
SMALL |= {name: {**OFF_POLICY, "updates_per_iteration": 2, "anneal": True} for name in ("ddpg", "td3", "sac")}
VALUES = {
    "learning_rate": (1e-4, 3e-3, 3e-2),
    "actor_learning_rate": (1e-4, 3e-3, 3e-2),
    "critic_learning_rate": (3e-2, 3e-3, 1e-4),
    "discount": (0.5, 0.9, 0.99),
    "trace": (0.0, 0.5, 1.0),
    "reward_scale": (0.01, 0.1, 1.0),
    "target_entropy": (0.1, 0.3, 0.9),
    "entropy_coefficient": (0.01, 0.1, 1.0),
    "kl_bound": (1e-6, 1e-4, 1.0),
    "max_grad_norm": (1e-3, 0.1, 10.0),
    "value_coefficient": (0.1, 0.5, 2.0),
    "clip": (1e-4, 0.01, 0.2),
    "polyak": (0.01, 0.1, 1.0),
    "logit_penalty": (0.0, 0.1, 1.0),
    "epsilon": (0.01, 0.3, 1.0),
    "final_epsilon": (1.0, 0.3, 0.01),
}
EACH = [(agent, name) for agent in SMALL for name in AGENTS[agent].config.per_member]


def make_trainer(name, seeds, *, varied=None, temperature=None, policy="gumbel", **settings):
    """A loop; `varied` are lists, one value a member."""
    config = vary(AGENTS[name].config(**{**SMALL[name], **settings}), varied or {})
    env = CartPole(len(seeds) * config.num_envs)
    agent = AGENTS[name].agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=4,
        seeds=seeds,
        estimator=policy,
        critic="linear",
        temperature=parse_temperature("1.0"),
        observation_space=env.single_observation_space,
        device="cpu",
    )
    with torch.no_grad():
        agent.actor.last_layer.bias[..., 0] += 2.0  # not as at random: exploration can be told
    return Trainer(agent, env, seeds=seeds, total_steps=400, temperature=temperature or parse_temperature("1.0").value)


def parameters(agent, num_members):
    parts = agent._parts().values() if hasattr(agent, "_parts") else [agent.parameters]
    return torch.cat([part.flat.detach().view(num_members, -1) for part in parts], dim=1)


def run_for(trainer, iterations):
    return [trainer.iterate() for _ in range(iterations)]


def check_each_alone(together, alone, iterations):
    """Every member of `together` against its own loop; equal up to the order of additions in a batched product."""
    ours = run_for(together, iterations)
    for member, trainer in enumerate(alone):
        for step, (many, one) in enumerate(zip(ours, run_for(trainer, iterations), strict=True)):
            for key, value in one.items():
                message = f"{key} of member {member} in iteration {step}"
                close = {"rtol": 1e-3, "atol": 1e-4, "equal_nan": True, "msg": message}
                torch.testing.assert_close(many[key][member : member + 1], value, **close)
        found = parameters(together.agent, len(alone))[member : member + 1]
        torch.testing.assert_close(found, parameters(trainer.agent, 1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("agent", "setting"), EACH)
def test_a_member_with_its_own_setting_is_what_it_would_be_alone(agent, setting):
    values, iterations = VALUES[setting], 7 if agent in ("ddpg", "td3", "sac") else 2
    together = make_trainer(agent, SEEDS, varied={setting: values})
    pairs = zip(SEEDS, values, strict=True)
    alone = [make_trainer(agent, (seed,), **{setting: value}) for seed, value in pairs]
    check_each_alone(together, alone, iterations)
    # Members 0 and 2 have the same seed: whatever sets them apart is the setting.
    first, _, last = parameters(together.agent, 3)
    assert not torch.equal(first, last)


@pytest.mark.parametrize(("agent", "policy"), [("sac", "gumbel"), *(("actor-critic", name) for name in ESTIMATORS)])
def test_a_member_with_its_own_temperature_is_what_it_would_be_alone(agent, policy):
    schedules = [parse_temperature(text) for text in ("0.5", "linear:1.0:0.1", "2.0")]
    together = make_trainer(agent, SEEDS, policy=policy, temperature=MemberTemperatures(schedules))
    alone = [
        make_trainer(agent, (seed,), policy=policy, temperature=schedule.value)
        for seed, schedule in zip(SEEDS, schedules, strict=True)
    ]
    check_each_alone(together, alone, 6 if agent == "sac" else 2)


def test_several_settings_at_once_and_a_temperature():
    varied = {"learning_rate": (1e-3, 3e-3, 1e-2), "target_entropy": (0.1, 0.5, 0.9)}
    schedules = [parse_temperature(text) for text in ("0.5", "1.0", "2.0")]
    together = make_trainer("actor-critic", SEEDS, varied=varied, temperature=MemberTemperatures(schedules))
    alone = [
        make_trainer(
            "actor-critic",
            (seed,),
            temperature=schedules[member].value,
            **{name: values[member] for name, values in varied.items()},
        )
        for member, seed in enumerate(SEEDS)
    ]
    check_each_alone(together, alone, 2)


@pytest.mark.parametrize("optimiser", [Adam, RMSprop])
def test_rows_with_rates_of_their_own_move_as_by_torchs_optimisers(optimiser):
    """50 steps, rates over four decades, annealed; within 2e-7 of the size of a parameter."""
    torch.manual_seed(0)
    rates = torch.tensor([1e-5, 1e-3, 1e-1]).unsqueeze(1)
    start = torch.randn(3, 40)
    ours = torch.nn.Parameter(start.clone())
    ours_optimiser = optimiser([ours], lr=rates.clone())
    rows = [torch.nn.Parameter(row.clone()) for row in start]
    reference = torch.optim.Adam if optimiser is Adam else torch.optim.RMSprop
    theirs = [reference([row], lr=float(rate)) for row, rate in zip(rows, rates, strict=True)]
    for step in range(50):
        gradient = torch.randn(3, 40) * 10.0 ** torch.randint(-4, 3, (3, 1))
        share = 1.0 - step / 50
        ours_optimiser.param_groups[0]["lr"].copy_(rates * share)
        ours.grad = gradient
        ours_optimiser.step()
        for row, other, each, rate in zip(rows, theirs, gradient, rates, strict=True):
            row.grad = each.clone()
            other.param_groups[0]["lr"] = float(rate) * share
            other.step()
    torch.testing.assert_close(ours.detach(), torch.stack(rows).detach(), rtol=2e-6, atol=2e-6)


def test_state_resumes_bit_for_bit():
    varied = {"actor_learning_rate": (1e-4, 1e-3, 1e-2), "epsilon": (0.01, 0.1, 0.5)}
    first, second = (make_trainer("sac", SEEDS, varied=varied) for _ in range(2))
    run_for(first, 8)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    run_for(first, 2), run_for(second, 2)
    assert torch.equal(parameters(first.agent, 3), parameters(second.agent, 3))


@pytest.mark.parametrize(
    ("agent", "settings", "message"),
    [
        ("actor-critic", {"hidden": [(4,), (8,)]}, "hidden cannot differ between members of one process; these can: l"),
        ("actor-critic", {"learning_rat": [1.0]}, "unknown setting 'learning_rat'"),
        ("actor-critic", {"discount": [0.9, 1.5]}, "discount must be between 0 and 1, got 1.5"),
        ("actor-critic", {"discount": [0.9], "trace": [0.1, 0.2]}, "one value a member, got 1 of discount, 2 of trace"),
        ("td3", {"target_entropy": [0.0, 0.1]}, "target_entropy 0 turns off what members of one process share"),
        ("sac", {"epsilon": [0.0, 0.1]}, "epsilon 0 turns off"),
    ],
)
def test_settings_that_cannot_vary_are_refused(agent, settings, message):
    with pytest.raises(RunError, match=message):
        vary(AGENTS[agent].config(), settings)


def test_a_learned_temperature_cannot_vary():
    with pytest.raises(RunError, match="learned temperature"):
        MemberTemperatures([parse_temperature("learned:1.0"), parse_temperature("1.0")])
