"""What reinforce, a2c and ppo promise alike: members apart, masks kept, exact resume, and no estimator."""

import json

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import Trainer
from gumbelrl.agents.command_line import main
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.rollout import Transition
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.score_function import normalise
from gumbelrl.envs import CartPole, make
from gumbelrl.policies import ActionLayout

NAMES = [name for name, entry in AGENTS.items() if not entry.uses_estimator]
SMALL = {"num_envs": 4, "rollout_steps": 8, "hidden": (16,)}
# Settings that change what is done with a rollout are tried as well.
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("ppo", {"target_kl": 1e-3, "value_clip": 0.1, "minibatches": 2}),
    ("a2c", {"normalise_advantages": True, "optimizer": "adam"}),
    ("reinforce", {"partial": "drop"}),
]


def make_agent(name, *, seeds, layout, features, **change):
    entry = AGENTS[name]
    return entry.agent(entry.config(**SMALL | change), layout=layout, num_features=features, seeds=seeds)


def make_trainer(name, seeds, change, *, env=None):
    env = CartPole(len(seeds) * SMALL["num_envs"]) if env is None else env
    layout = ActionLayout.from_space(env.single_action_space)
    features = num_features(env.single_observation_space)
    agent = make_agent(name, seeds=seeds, layout=layout, features=features, **change)
    return Trainer(agent, env, seeds=seeds, total_steps=4096, temperature=lambda progress, step: 1.0)


def random_rollout(layout, agent, mask):
    """A rollout of random numbers of the policy that the agent has, under a mask `[group, choice]`."""
    shape = (SMALL["rollout_steps"], agent.num_members, SMALL["num_envs"])
    observation, final = torch.randn(2, *shape, 5)
    mask = mask.expand(*shape, -1, -1)
    with torch.no_grad():
        policy = agent.policy(observation.transpose(0, 1).flatten(1, 2), mask.transpose(0, 1).flatten(1, 2))
    logits, action = (
        x.unflatten(1, (shape[0], shape[2])).transpose(0, 1)
        for x in (policy.logits, policy.sample(generator=agent.streams))
    )
    chance = torch.rand(shape)
    return Transition(
        observation=observation,
        logits=logits,
        action=action,
        reward=torch.randn(shape),
        terminated=chance < 0.1,
        truncated=chance > 0.9,
        final_observation=final,
        mask=mask,
        final_mask=mask,
    )


@pytest.mark.parametrize(("name", "change"), VARIANTS)
def test_a_member_does_what_it_would_do_alone(name, change):
    """Equal up to the order of additions in a batched product."""
    together, alone = make_trainer(name, (3, 4, 5), change), make_trainer(name, (4,), change)
    for _ in range(4):
        ours, theirs = together.iterate(), alone.iterate()
        assert torch.equal(together.observation[1], alone.observation[0])
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key][1:2], value, rtol=1e-3, atol=1e-5, equal_nan=True, msg=key)
    torch.testing.assert_close(together.agent.flat[1:2], alone.agent.flat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "change"), VARIANTS)
def test_no_gradient_crosses_members(name, change):
    """The loss of member 0 alone leaves every other member's gradient at exactly zero."""
    layout = ActionLayout.from_space(spaces.Discrete(3))
    agent = make_agent(name, seeds=(0, 1, 2), layout=layout, features=5, **change)
    rollout = random_rollout(layout, agent, torch.ones(1, 3, dtype=torch.bool))
    batch = agent.returns(rollout) if name == "reinforce" else agent.batch(rollout, trace=0.9)
    gradient = agent.parameters.gradient(agent.loss(batch)[0][0])
    assert gradient[0].abs().sum() > 0
    assert (gradient[1:] == 0).all()


@pytest.mark.parametrize(("name", "change"), VARIANTS)
def test_one_members_nan_stays_its_own(name, change):
    trainer = make_trainer(name, (0, 1), change)
    with torch.no_grad():
        trainer.agent.flat[0] = float("nan")
    before = trainer.agent.flat[1].clone()
    for _ in range(2):
        trainer.iterate()
    assert trainer.agent.flat[1].isfinite().all()
    # Eight steps may hold no whole episode to learn from.
    assert change.get("partial") == "drop" or not torch.equal(trainer.agent.flat[1], before)


@pytest.mark.parametrize(("name", "change"), VARIANTS)
def test_a_mask_is_never_broken_and_gets_no_gradient(name, change):
    """Nor do choices that a ragged group does not have; their weights stay at what they were."""
    layout = ActionLayout.from_space(spaces.MultiDiscrete([3, 2]))
    mask = torch.tensor([[True, False, True], [True, True, True]])
    agent = make_agent(name, seeds=(0, 1), layout=layout, features=5, entropy_coefficient=0.1, **change)
    forbidden = [1, 5]  # of the six logits
    last = agent.actor.last_layer
    before = last.weight.detach().clone(), last.bias.detach().clone()
    for _ in range(3):
        rollout = random_rollout(layout, agent, mask)
        assert (rollout.action[..., 0, 1] == 0).all()
        assert (rollout.action[..., 1, 2] == 0).all()
        assert rollout.action[..., 0, 2].sum() > 0
        metrics = agent.update(rollout)
        assert (metrics["policy/probs"].flatten(2)[..., forbidden] == 0).all()
        assert all(value.isfinite().all() for value in metrics.values())
    for now, then in zip((last.weight, last.bias), before, strict=True):
        moved = (now != then).any(1)
        assert not moved[:, forbidden].any()
        assert moved[:, [0, 2, 3, 4]].all()


@pytest.mark.parametrize("name", NAMES)
def test_masks_of_an_environment_are_kept_while_it_learns(name):
    trainer = make_trainer(name, (0, 1), {}, env=make("gumbelrl/Taxi-v4", num_envs=8, action_masks=True))
    for _ in range(3):
        rollout = trainer.collect()
        assert not rollout.mask.all()
        assert ((rollout.action > 0) <= rollout.mask).all()
        trainer.agent.update(rollout)


@pytest.mark.parametrize(("name", "change"), VARIANTS)
def test_state_resumes_bit_for_bit(name, change):
    one, other = make_trainer(name, (0, 1), change), make_trainer(name, (0, 1), change)
    for _ in range(3):
        one.iterate()
    copied = _clone(one.state_dict())
    other.load_state_dict(copied)
    for trainer in (one, other):
        for _ in range(2):
            trainer.iterate()
    assert torch.equal(one.agent.flat, other.agent.flat)
    assert torch.equal(one.statistics.window, other.statistics.window)


def _clone(value):
    if isinstance(value, dict):
        return {name: _clone(each) for name, each in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_normalised_advantages_are_each_members_own():
    advantage = torch.randn(3, 50) * torch.tensor([[1.0], [10.0], [0.0]]) + 5.0
    got = normalise(advantage)
    torch.testing.assert_close(got.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.std(1)[:2], torch.ones(2))
    assert (got[2] == 0).all()  # all alike: nothing to prefer
    torch.testing.assert_close(normalise(advantage, torch.ones(3, 50))[:2], got[:2])
    half = torch.cat([torch.ones(3, 25), torch.zeros(3, 25)], dim=1)
    torch.testing.assert_close(normalise(advantage, half)[:2, :25], normalise(advantage[:, :25])[:2])


# The command line ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_says_what_it_is_and_resumes(tmp_path, capsys, name):
    folder = tmp_path / "run"
    words = ["--agent", name, "--total-steps", "600", "--evaluation-episodes", "2", "--hidden", "8", "--track", "off"]
    assert main([*words, "--output", str(folder)]) == 0
    assert "temperature" not in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert (results["policy"], results["critic"]) == ("score-function", "state-value")
    assert main(["--resume", str(folder)]) == 0
    assert json.loads((folder / "results.json").read_text())["members"] == results["members"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--policy", "softmax"], "takes no --policy estimator"),
        (["--critic", "joint"], "use --policy gumbel --critic joint with --agent actor-critic"),
        (["--temperature", "learned:1.0"], "takes no --temperature"),
    ],
)
def test_an_estimator_is_refused(tmp_path, capsys, name, words, message):
    folder = tmp_path / "run"
    assert main(["--agent", name, *words, "--output", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --agent {name} ")
    assert message in said
    assert not folder.exists()


def test_other_agents_keep_their_estimator():
    assert RunConfig(agent="actor-critic").policy == "gumbel"
    assert RunConfig(agent="ppo", policy="softmax").policy == "softmax"  # refused later, in words


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ppo", {"num_envs": 0}, "num_envs must be at least 1"),
        ("ppo", {"epochs": 0}, "epochs must be at least 1"),
        ("ppo", {"num_envs": 3, "rollout_steps": 3}, "must be divisible by minibatches = 4"),
        ("ppo", {"clip": 0.0}, "clip must be above 0"),
        ("ppo", {"target_kl": -1.0}, "target_kl must be above 0"),
        ("ppo", {"trace": 1.5}, "trace must be between 0 and 1"),
        ("a2c", {"trace": -0.1}, "trace must be between 0 and 1"),
        ("a2c", {"optimizer": "sgd"}, "unknown optimizer 'sgd'; choose one of adam, rmsprop"),
        ("a2c", {"activation": "gelu"}, "unknown activation 'gelu'"),
        ("reinforce", {"partial": "keep"}, "unknown partial 'keep'; choose one of bootstrap, drop"),
        ("reinforce", {"entropy_coefficient": -1.0}, "entropy_coefficient must be finite and not negative"),
        ("reinforce", {"learning_rate": float("inf")}, "learning_rate must be above 0 and finite"),
        ("reinforce", {"discount": 1.1}, "discount must be between 0 and 1"),
        ("reinforce", {"hidden": ()}, "at least one layer"),
    ],
)
def test_settings_are_checked(name, change, message):
    with pytest.raises(ValueError, match=message):
        AGENTS[name].config(**change)
