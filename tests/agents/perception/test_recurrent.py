"""Memory: the unit itself, what is replayed, and that it learns what needs it."""

import json

import pytest
import torch

from gumbelrl.agents import ActorCritic, ActorCriticConfig, RunError, Trainer, evaluate
from gumbelrl.agents.checkpoint import flatten_state, unflatten_state
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.perception.recurrent import RecurrentCore
from gumbelrl.envs import Memory
from gumbelrl.policies import ActionLayout
from gumbelrl.policies.gates import GATES
from gumbelrl.random import RandomStreams

SMALL = {
    "num_envs": 4,
    "rollout_steps": 16,
    "epochs": 1,
    "minibatches": 2,
    "hidden": (16,),
    "memory_size": 8,
    "torso": "recurrent",
    "diagnostics_interval": 2,
}


def make_core(kind, *, seeds=(0,), inputs=3, size=5, **options):
    return RecurrentCore(RandomStreams(seeds), RandomStreams(seeds), inputs, size=size, kind=kind, **options)


def make_trainer(seeds=(0, 1), *, delay=4, total_steps=10_000, **changes):
    config = ActorCriticConfig(**{**SMALL, **changes})
    env = Memory(len(seeds) * config.num_envs, delay=delay)
    agent = ActorCritic(
        config,
        layout=ActionLayout.from_space(env.single_action_space),
        num_features=num_features(env.single_observation_space),
        observation_space=env.single_observation_space,
        seeds=seeds,
    )
    return Trainer(agent, env, seeds=seeds, total_steps=total_steps, temperature=lambda progress, step: 1.0)


def test_with_sigmoid_gates_it_is_torchs_gated_recurrent_unit():
    core, size = make_core("sigmoid"), 5
    torch.nn.init.normal_(core.recurrent)
    torch.nn.init.normal_(core.inputs.bias)
    theirs = torch.nn.GRU(3, size)
    order = torch.cat([torch.arange(size, 2 * size), torch.arange(size), torch.arange(2 * size, 3 * size)])  # r, z, n
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(core.inputs.weight[0].T[order])
        theirs.weight_hh_l0.copy_(core.recurrent[0].T[order])
        theirs.bias_ih_l0.copy_(core.inputs.bias[0, 0, order])
        theirs.bias_hh_l0.zero_()
    observation, memory = torch.randn(7, 1, 4, 3), torch.randn(1, 4, size)
    ours = core.replay(observation, memory, torch.zeros(7, 1, 4, dtype=torch.bool), None)
    expected, _ = theirs(observation[:, 0], memory)
    torch.testing.assert_close(ours[:, 0], expected)


@pytest.mark.parametrize("kind", ["argmax-st", "straight-through", "gumbel"])
def test_a_discrete_gate_holds_a_value_and_its_gradient_exactly(kind):
    """A thousand steps with the keep gates shut and other input than at the first; a sigmoid of 8 would keep 72%."""
    core = make_core(kind)
    with torch.no_grad():
        core.inputs.bias[..., :5] = 100.0
        core.inputs.weight[..., :5] = 0.0
    memory = torch.randn(1, 2, 5, requires_grad=True)
    noise = core.noise(1000, 2)
    held = core.replay(torch.randn(1000, 1, 2, 3), memory, torch.zeros(1000, 1, 2, dtype=torch.bool), noise)[-1]
    assert torch.equal(held, memory)
    (slope,) = torch.autograd.grad(held.sum(), memory)
    assert torch.equal(slope, torch.ones_like(slope))


def test_nothing_passes_the_start_of_an_episode():
    core = make_core("gumbel")
    observation = torch.randn(6, 1, 2, 3, requires_grad=True)
    first = torch.zeros(6, 1, 2, dtype=torch.bool)
    first[3, 0, 0] = True
    memories = core.replay(observation, torch.randn(1, 2, 5), first, core.noise(6, 2))
    (slope,) = torch.autograd.grad(memories[5].square().sum(), observation)
    assert (slope[:3, 0, 0] == 0).all()
    assert (slope[:3, 0, 1] != 0).any()


def test_keep_gates_start_open_to_every_delay_up_to_the_horizon():
    """The share kept without input, u / (1 + u), is that of u uniform on (1, 99); 500 of them, 5 standard errors."""
    core = make_core("gumbel", size=500, horizon=100)
    odds = torch.exp(core.sharpness * core.inputs.bias[0, 0, :500])
    assert 1.0 <= odds.min() < odds.max() <= 99.0 + 1e-3
    assert (odds.mean() - 50.0).abs() < 5 * 98.0 / (12 * 500) ** 0.5


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_what_is_replayed_is_what_acted(kind, normalise):
    """The logits of the rollout come out again, to the order of additions, over episodes that end inside it."""
    trainer = make_trainer(gate=kind, normalise_observations=normalise)
    for _ in range(3):
        trainer.iterate()
    rollout, perception, agent = trainer.collect(), trainer.perception, trainer.agent
    assert (rollout.terminated.sum(0) > 1).all()
    assert (rollout.memory[0] != 0).any()  # the stored state is that of an episode under way
    seen = perception.normalised(rollout)
    steps = perception.replay(perception.rows(seen, target=rollout.reward))
    logits = agent.logits(steps["observation"]).unflatten(1, (4, 16)).movedim(2, 0)
    torch.testing.assert_close(logits, rollout.logits, rtol=1e-4, atol=1e-6)
    assert torch.equal(steps["target"].unflatten(1, (4, 16)).movedim(2, 0), rollout.reward)


@pytest.mark.parametrize("kind", GATES)
def test_what_a_step_led_to_is_seen_with_the_memory_of_that_episode(kind):
    trainer = make_trainer(gate=kind)
    trainer.iterate()
    rollout, perception, core = trainer.collect(), trainer.perception, trainer.perception.core
    final = perception.final_features(rollout)
    goes_on = ~(rollout.terminated | rollout.truncated)[:-1]
    after = [perception(rollout.observation[t], rollout.memory[t], _at(rollout.gate_noise, t))[0] for t in range(16)]
    torch.testing.assert_close(final[:-1][goes_on], torch.stack(after[1:])[goes_on], rtol=1e-4, atol=1e-6)
    ended = ~goes_on
    remembered = torch.stack(after)[..., -8:]
    for t in range(15):
        expected, _ = core(rollout.final_observation[t], remembered[t], _at(rollout.gate_noise, t + 1))
        torch.testing.assert_close(final[t][ended[t]], expected[ended[t]], rtol=1e-4, atol=1e-6)


def _at(noise, t):
    return None if noise is None else noise[t]


@pytest.mark.parametrize("kind", GATES)
def test_a_member_remembers_what_it_would_alone(kind):
    together, alone = make_trainer((3, 4, 5), gate=kind), make_trainer((4,), gate=kind)
    for _ in range(3):
        ours, theirs = together.iterate(), alone.iterate()
        torch.testing.assert_close(together.memory[1], alone.memory[0], rtol=1e-3, atol=1e-4)
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name][1:2], value, rtol=1e-3, atol=1e-4, equal_nan=True, msg=name)
    for greedy in (False, True):
        returns = [
            evaluate(each.agent, lambda n: Memory(n, delay=4), seeds=each.seeds, episodes=8, greedy=greedy)
            for each in (together, alone)
        ]
        assert torch.equal(returns[0][1], returns[1][0])


@pytest.mark.parametrize("kind", GATES)
def test_a_run_goes_on_bit_for_bit_in_the_middle_of_an_episode(kind):
    one, other = (make_trainer(gate=kind, normalise_observations=True) for _ in range(2))
    for _ in range(3):
        one.iterate()
    tensors, rest = flatten_state(one.state_dict())
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    rest = json.loads(json.dumps(rest))
    one.iterate()
    other.load_state_dict(unflatten_state(saved, rest))
    assert (other.memory != 0).any()
    other.iterate()
    assert torch.equal(one.memory, other.memory)
    assert torch.equal(one.agent.flat, other.agent.flat)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "gumble"}, "did you mean gumbel"),
        ({"memory_size": 0}, "memory_size of at least 1"),
        ({"memory_horizon": 2}, "memory_horizon of at least 3"),
        ({"gate_temperature": 0.0}, "gate_temperature above 0"),
        ({"num_envs": 5}, "whole sequences: num_envs = 5 must be divisible by minibatches = 2"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(RunError, match=message):
        ActorCriticConfig(**{**SMALL, **changes})


@pytest.mark.parametrize("kind", ["gumbel", pytest.param("sigmoid", marks=pytest.mark.slow)])
def test_a_recurrent_torso_remembers_where_a_flat_network_cannot(kind):
    """Seeded; two seeds, a delay of 2: every greedy return is 1 where the flat network's is chance."""
    settings = {
        "num_envs": 32,
        "rollout_steps": 8,
        "epochs": 4,
        "minibatches": 2,
        "memory_size": 16,
        "learning_rate": 3e-3,
        "reward_scale": 1.0,
        "entropy_coefficient": 0.01,
        "gate": kind,
        "diagnostics_interval": 0,
    }
    returns = {}
    for torso in ("recurrent", "mlp"):
        trainer = make_trainer(delay=2, total_steps=8192, **{**settings, "torso": torso})
        while not trainer.finished:
            trainer.iterate()
        returns[torso] = evaluate(
            trainer.agent, lambda n: Memory(n, delay=2), seeds=(0, 1), episodes=100, greedy=True
        ).mean(1)
    assert (returns["recurrent"] == 1.0).all()
    assert (returns["mlp"] < 0.7).all()
