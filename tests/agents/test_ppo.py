"""ppo: members that moved too far sit out, clipping by hand, and it learns. Against stable-baselines3: see
`test_score_function_reference.py`.
"""

import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents import Trainer, ppo
from gumbelrl.agents.ppo import PPO, PPOConfig
from gumbelrl.agents.rollout import Transition
from gumbelrl.envs import CartPole
from gumbelrl.policies import ActionLayout

LAYOUT = ActionLayout.from_space(spaces.Discrete(3))
SMALL = PPOConfig(num_envs=4, rollout_steps=8, epochs=3, minibatches=2, hidden=(16,), learning_rate=1e-4)


def with_target(target_kl):
    return PPOConfig(**{**vars(SMALL), "target_kl": target_kl})


def make_agent(config, seeds=(0, 1)):
    return PPO(config, layout=LAYOUT, num_features=5, seeds=seeds)


def make_rollout(agent, *, shift):
    """A rollout whose behaviour differs from the agent's policy by `shift` `[member]` in the first logit."""
    torch.manual_seed(0)
    shape = (SMALL.rollout_steps, agent.num_members, SMALL.num_envs)
    observation = torch.randn(*shape, 5)
    with torch.no_grad():
        logits = agent.logits(observation.transpose(0, 1).flatten(1, 2)).unflatten(1, (shape[0], -1)).transpose(0, 1)
    logits = logits + torch.tensor(shift).view(1, -1, 1, 1, 1) * torch.tensor([1.0, 0.0, 0.0])
    index = torch.randint(3, (*shape, 1))
    no = torch.zeros(shape, dtype=torch.bool)
    return Transition(
        observation=observation,
        logits=logits,
        action=torch.nn.functional.one_hot(index, 3).float(),
        reward=torch.randn(shape),
        terminated=no,
        truncated=no,
        final_observation=torch.randn(*shape, 5),
    )


@pytest.mark.parametrize("warm", [False, True], ids=["first update", "later update"])
def test_a_member_that_moved_too_far_makes_no_step_and_the_others_do(warm):
    """Bit for bit: the one stays, momentum and all; the other learns as if there were no bound."""
    bounded, free = make_agent(with_target(0.01)), make_agent(SMALL)
    if warm:
        for agent in (bounded, free):
            agent.update(make_rollout(agent, shift=[0.0, 0.0]))
        assert torch.equal(bounded.flat, free.flat)
    before = bounded.flat.detach().clone()
    moments = {name: each.clone() for name, each in bounded.optimizer.state[bounded.flat].items()}
    metrics = bounded.update(make_rollout(bounded, shift=[1.0, 0.0]))
    free.update(make_rollout(free, shift=[1.0, 0.0]))
    assert metrics["policy/kl"][0] > 1.5 * 0.01 > metrics["policy/kl"][1]
    assert torch.equal(bounded.flat[0], before[0])
    assert not torch.equal(free.flat[0], before[0])
    assert torch.equal(bounded.flat[1], free.flat[1])
    assert not torch.equal(bounded.flat[1], before[1])
    for name, each in bounded.optimizer.state[bounded.flat].items():
        if each.dim() == 2:
            assert torch.equal(each[0], moments[name][0] if warm else torch.zeros_like(each[0]))
            assert torch.equal(each[1], free.optimizer.state[free.flat][name][1])


def test_a_member_that_sits_out_does_so_until_the_next_rollout(monkeypatch):
    agent = make_agent(PPOConfig(**{**vars(with_target(0.01)), "epochs": 1}))
    near = make_rollout(agent, shift=[0.0, 0.0])
    batches = [agent.batch(make_rollout(agent, shift=[1.0, 0.0]), trace=0.9), agent.batch(near, trace=0.9)]
    monkeypatch.setattr(agent, "orders", lambda target: torch.arange(2))
    monkeypatch.setattr(ppo, "take", lambda data, which: batches[int(which)])
    before = agent.flat.detach().clone()
    metrics = agent.update(near)
    assert metrics["policy/kl"][0] < 0.01  # of the last minibatch, to which it could have fitted
    assert torch.equal(agent.flat[0], before[0])
    batches.reverse()
    agent.update(near)
    assert not torch.equal(agent.flat[0], before[0])


def test_the_bound_holds_the_divergence():
    """With a step that is far too long, the divergence stays near the bound; without the bound it does not."""
    reached = {}
    for target in (None, 0.01):
        config = PPOConfig(**{**vars(SMALL), "learning_rate": 0.02, "epochs": 20, "clip": 10.0, "target_kl": target})
        agent = make_agent(config)
        agent.update(rollout := make_rollout(agent, shift=[0.0, 0.0]))
        batch = agent.batch(rollout, trace=0.9)
        reached[target] = agent.loss(batch)[1]["policy/kl"]
    assert (reached[0.01] < 0.1).all()
    assert (reached[None] > 5 * reached[0.01]).all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [(1.5, 1.0, 0.0), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, 0.0), (1.1, 1.0, 1.1), (0.9, -1.0, -0.9)],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, slope):
    """One state, one action: d/dθ of −loss is ratio · advantage · d log π/dθ, and 0 where clipping holds it."""
    config = PPOConfig(num_envs=1, rollout_steps=1, minibatches=1, hidden=(4,), normalise_advantages=False)
    agent = make_agent(config, seeds=(0,))
    observation = torch.randn(1, 1, 5)
    action = torch.tensor([[[[1.0, 0.0, 0.0]]]])
    log_prob = agent.policy(observation, None).log_prob(action).detach()
    old = log_prob - torch.tensor(ratio).log()  # of the action taken; the other two share the rest
    rest = torch.log1p(-old.exp()) - torch.tensor(2.0).log()
    logits = torch.stack([old, rest, rest], -1).unsqueeze(-2)
    value = torch.zeros(1, 1)
    batch = {
        "observation": observation,
        "logits": logits,
        "action": action,
        "advantage": torch.full((1, 1), advantage),
        "value": value,
        "target": value,
    }
    loss, metrics = agent.loss(batch)
    got = torch.autograd.grad(-loss.sum(), agent.actor.last_layer.bias)[0].flatten()
    probs = agent.policy(observation, None).probs.flatten().detach()
    torch.testing.assert_close(got, slope * (torch.tensor([1.0, 0.0, 0.0]) - probs), rtol=1e-4, atol=1e-6)
    assert metrics["policy/clip_fraction"].item() == (abs(ratio - 1) > config.clip)


def test_schedules_go_linearly_to_zero():
    agent = make_agent(PPOConfig(**{**vars(SMALL), "clip": 0.4, "learning_rate": 0.01}))
    agent.set_progress(0.75, temperature=1.0)
    assert agent.clip.item() == pytest.approx(0.1)
    assert agent.optimizer.param_groups[0]["lr"].item() == pytest.approx(0.0025)
    held = make_agent(PPOConfig(**{**vars(SMALL), "anneal": False, "anneal_clip": False}))
    held.set_progress(0.75, temperature=1.0)
    assert held.clip.item() == pytest.approx(0.2)
    assert held.optimizer.param_groups[0]["lr"].item() == pytest.approx(1e-4)


def test_ppo_learns_cartpole():
    """A short run, with its schedules, ends far above the 22 of chance; deterministic on one machine."""
    config = PPOConfig()
    env = CartPole(config.num_envs)
    agent = PPO(config, layout=ActionLayout.from_space(env.single_action_space), num_features=4, seeds=(0,))
    trainer = Trainer(agent, env, seeds=(0,), total_steps=12_288, temperature=lambda progress, step: 1.0)
    while not trainer.finished:
        metrics = trainer.iterate()
    assert metrics["train/return"].item() >= 70
