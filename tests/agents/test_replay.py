"""The replay: n-step transitions as a loop would make them, stored without loss, drawn uniformly, resumed exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from gumbelrl.agents.replay import Replay, index_type
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout
from gumbelrl.random import RandomStreams

MEMBERS, ENVS, FEATURES = 2, 3, 4
SPACE = spaces.MultiDiscrete([3, 2])
LAYOUT = ActionLayout.from_space(SPACE)


def rollout(time, *, generator, masked=False, features=None):
    """A rollout of random steps, a quarter of them the last of an episode; every observation is different."""
    batch = (time, MEMBERS, ENVS)

    def uniform(*shape):
        return torch.rand(*batch, *shape, generator=generator)

    observation = uniform(FEATURES) if features is None else features()
    index = torch.stack([torch.randint(n, batch, generator=generator) for n in SPACE.nvec], -1)
    ends = uniform() < 0.25
    terminated = ends & (uniform() < 0.5)
    mask = torch.ones(*batch, 2, 3, dtype=torch.bool)
    return Transition(
        observation=observation,
        logits=uniform(2, 3),
        action=LAYOUT.to_one_hot(index),
        reward=uniform(),
        terminated=terminated,
        truncated=ends & ~terminated,
        final_observation=uniform(FEATURES) if features is None else features(),
        mask=mask & (uniform(2, 3) < 0.8) if masked else None,
        final_mask=mask & (uniform(2, 3) < 0.8) if masked else None,
    )


def by_a_loop(steps, t, member, env, return_steps, discount):
    """The transition that starts at step t, one step at a time; None where the rollout is over before it is."""
    total = 0.0
    for k in range(return_steps):
        if t + k >= steps.reward.shape[0]:
            return None
        here = (t + k, member, env)
        total += discount**k * steps.reward[here].item()
        if steps.terminated[here]:
            return total, 0.0, steps.final_observation[here]
        # An episode that is cut goes on in value, from where it was cut.
        if steps.truncated[here] or k == return_steps - 1:
            return total, discount ** (k + 1), steps.final_observation[here]
    raise AssertionError


def concatenate(first, second):
    return Transition(
        **{
            name: None if column is None else torch.cat([column, getattr(second, name)])
            for name, column in vars(first).items()
        }
    )


@pytest.mark.parametrize("return_steps", [1, 2, 5])
@pytest.mark.parametrize("time", [1, 3, 7])
def test_transitions_are_those_of_a_loop_over_steps(return_steps, time):
    """Whatever the rollouts are cut into. A short one that ended waits like the others until n steps are over."""
    generator = torch.Generator().manual_seed(0)
    replay = Replay(LAYOUT, capacity=1000, return_steps=return_steps, discount=0.9)
    parts = [rollout(time, generator=generator, masked=True) for _ in range(21 // time)]
    whole = parts[0]
    for part in parts[1:]:
        whole = concatenate(whole, part)
    for part in parts:
        replay.add(part)
    total = 21 - return_steps + 1
    assert int(replay.size) == replay.num_rows == total * ENVS
    rows = replay._batch(torch.arange(MEMBERS * 1000), MEMBERS)
    for member in range(MEMBERS):
        for t in range(total):
            for env in range(ENVS):
                row = (member, t * ENVS + env)
                reward, discount, after = by_a_loop(whole, t, member, env, return_steps, 0.9)
                assert rows.reward[row].item() == pytest.approx(reward, rel=1e-6)
                assert rows.discount[row].item() == pytest.approx(discount, rel=1e-6)
                assert torch.equal(rows.next_observation[row], after)
                assert torch.equal(rows.observation[row], whole.observation[t, member, env])
                assert torch.equal(rows.action[row], whole.action[t, member, env])
                assert torch.equal(rows.mask[row], whole.mask[t, member, env])


def test_a_ring_keeps_the_last_and_forgets_the_first():
    generator = torch.Generator().manual_seed(1)
    replay = Replay(LAYOUT, capacity=10)  # not a multiple of the six or nine rows that enter at once
    rewards = []
    for time in (2, 3, 2, 5):
        part = rollout(time, generator=generator)
        rewards.append(part.reward.transpose(0, 1).flatten(1))
        replay.add(part)
        held = torch.cat(rewards, 1)[:, -10:]
        assert int(replay.size) == held.shape[1]
        kept = replay.columns["reward"][:, : int(replay.size)]
        assert torch.equal(kept.sort(1).values, held.sort(1).values)


def test_draws_are_uniform_over_what_is_held_and_each_member_has_its_own():
    generator = torch.Generator().manual_seed(2)
    replay = Replay(LAYOUT, capacity=100)
    replay.add(rollout(7, generator=generator))
    streams = RandomStreams([5, 6])
    batch = replay.sample(21 * 2000, generator=streams)
    for member in range(MEMBERS):
        values, counts = batch.reward[member].unique(return_counts=True)
        assert set(values.tolist()) == set(replay.columns["reward"][member, :21].tolist())
        chi_square = ((counts - 2000.0).square() / 2000.0).sum().item()
        assert chi_square < 45.3  # 20 degrees of freedom, p = .001
    alone = replay.sample(50, generator=RandomStreams([5, 6]))
    assert torch.equal(alone.reward, batch.reward[:, :50])
    assert not torch.equal(*(replay._batch(torch.arange(200), 2).reward))


@pytest.mark.parametrize(
    ("space", "stored", "largest"),
    [
        (spaces.Box(0, 255, (FEATURES,), np.uint8), torch.uint8, 256),
        (spaces.Box(0, 1, (2, 2), np.bool_), torch.bool, 2),
        (spaces.Box(-1000, 1000, (FEATURES,), np.int16), torch.int16, 1001),
        (spaces.Box(0, 1, (FEATURES,), np.float32), torch.float32, None),
        (spaces.Discrete(FEATURES), torch.int8, None),
        (None, torch.float32, None),
    ],
)
def test_observations_are_stored_as_they_are(space, stored, largest):
    generator = torch.Generator().manual_seed(3)
    batch = (4, MEMBERS, ENVS)

    def features():
        if isinstance(space, spaces.Discrete):
            return torch.eye(FEATURES)[torch.randint(FEATURES, batch, generator=generator)]
        if largest is None:
            return torch.rand(*batch, FEATURES, generator=generator)
        return torch.randint(largest, (*batch, FEATURES), generator=generator).float()

    replay = Replay(LAYOUT, capacity=12, space=space)
    part = rollout(4, generator=generator, features=features)
    replay.add(part)
    assert replay.columns["observation"].dtype == stored
    assert replay.columns["action"].dtype == torch.int8
    held = replay._batch(torch.arange(MEMBERS * 12), MEMBERS)
    for name, given in (("observation", part.observation), ("next_observation", part.final_observation)):
        assert getattr(held, name).dtype == torch.float32
        assert torch.equal(getattr(held, name), given.transpose(0, 1).flatten(1, 2))
    width = 1 if isinstance(space, spaces.Discrete) else FEATURES
    row = 2 * width * replay.columns["observation"].element_size() + 2 * 1 + 4 + 4
    assert replay.num_bytes() == MEMBERS * 12 * row


def test_an_index_takes_the_smallest_type_that_holds_it():
    assert [index_type(n) for n in (2, 128, 129, 32768, 32769)] == [
        torch.int8,
        torch.int8,
        torch.int16,
        torch.int16,
        torch.int32,
    ]


def test_what_a_minatar_board_takes():
    """Half a million boards of 400 bits, before and after, where float32 would take 1.6 GB."""
    space = spaces.Box(0, 1, (10, 10, 4), np.bool_)
    replay = Replay(ActionLayout.from_space(spaces.Discrete(6)), capacity=100, space=space)
    blank = torch.zeros(1, 1, 1, 400)
    scalar = torch.zeros(1, 1, 1)
    step = Transition(
        observation=blank,
        logits=torch.zeros(1, 1, 1, 1, 6),
        action=torch.eye(6)[:1].view(1, 1, 1, 1, 6),
        reward=scalar,
        terminated=scalar.bool(),
        truncated=scalar.bool(),
        final_observation=blank,
    )
    replay.add(step)
    assert replay.num_bytes() == 100 * (2 * 400 + 1 + 8)


@pytest.mark.parametrize("return_steps", [1, 3])
def test_it_resumes_bit_for_bit(return_steps):
    generator = torch.Generator().manual_seed(4)
    parts = [rollout(2, generator=generator, masked=True) for _ in range(6)]
    one, other = (Replay(LAYOUT, capacity=15, return_steps=return_steps) for _ in range(2))
    for part in parts[:3]:
        one.add(part)
    other.load_state_dict(one.state_dict())
    for part in parts[3:]:
        one.add(part)
        other.add(part)
        ours, theirs = (each.sample(9, generator=RandomStreams([0, 1])) for each in (one, other))
        for name, column in vars(ours).items():
            assert column is None or torch.equal(column, getattr(theirs, name)), name


def test_the_probabilities_of_who_acted_are_kept_on_request():
    part = rollout(2, generator=torch.Generator().manual_seed(5))
    part = replace(part, logits=torch.zeros_like(part.logits))
    replay = Replay(LAYOUT, capacity=6, keep_probs=True)
    replay.add(part)
    torch.testing.assert_close(replay.columns["probs"], torch.full((2, 6, 2, 3), 1 / 3))
