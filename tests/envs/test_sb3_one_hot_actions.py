"""`OneHotActions`: a discrete space as one-hot vectors."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from gumbelrl.envs import OneHotActions, OneHotBox

SPACES = [
    spaces.Discrete(3),
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 5, 3]),
    spaces.MultiDiscrete([2, 3], start=[1, -1]),
    spaces.MultiDiscrete([[2, 3], [4, 2]]),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
]
each_space = pytest.mark.parametrize("space", SPACES, ids=str)


@each_space
def test_vectors_and_actions_are_one_to_one(space):
    box = OneHotBox(space, seed=0)
    space.seed(0)
    for _ in range(30):
        action = space.sample()
        vector = box.to_one_hot(action)
        assert box.contains(vector)
        back = box.from_one_hot(vector)
        assert space.contains(back)
        np.testing.assert_array_equal(back, action)
        # What stable-baselines3's rescaling to [-1, 1] and back leaves.
        np.testing.assert_array_equal(box.from_one_hot(((2 * vector - 1) + 1) / 2 * np.float32(1 - 1e-6)), action)


@each_space
def test_its_samples_are_one_hot_and_equally_likely(space):
    """Seeded; each choice within 5 standard deviations: under fresh seeds fails once in 1e5."""
    box = OneHotBox(space, seed=1)
    samples = np.stack([box.sample() for _ in range(3000)])
    assert all(box.contains(sample) for sample in samples[:50])
    expected = np.concatenate([np.full(count, 1 / count) for count in box.choice_counts])
    deviation = np.abs(samples.mean(0) - expected) / np.sqrt(expected * (1 - expected) / len(samples))
    assert deviation.max() < 5
    assert box.largest_entropy == pytest.approx(np.log(box.choice_counts).sum())


def test_spaces_are_equal_where_what_they_present_is():
    box = OneHotBox(spaces.Discrete(6))
    assert box == OneHotBox(spaces.Discrete(6))
    assert box != OneHotBox(spaces.MultiDiscrete([3, 3]))
    assert box != spaces.Box(0, 1, (6,))
    assert pickle.loads(pickle.dumps(box)) == box
    assert copy.deepcopy(box).sample().sum() == 1
    assert repr(box) == "OneHotBox(Discrete(6))"


@pytest.mark.parametrize(
    "vector",
    [[0, 0, 0], [1, 1, 0], [0.5, 0.5, 0], [0.9, 0.05, 0.05], [1, 0], [np.nan, 1, 0], [2, 0, 0], [-1, 1, -1]],
)
def test_what_is_not_one_hot_is_refused(vector):
    box = OneHotBox(spaces.Discrete(3))
    assert not box.contains(np.array(vector, dtype=np.float32))
    with pytest.raises(ValueError, match=r"is not a one-hot action of Discrete\(3\): use a policy that samples"):
        box.from_one_hot(np.array(vector, dtype=np.float32))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 1, (2,)), "is continuous already: use SAC or TD3 as is"),
        (OneHotBox(spaces.Discrete(2)), "wrap the environment in OneHotActions once"),
        (spaces.Tuple((spaces.Discrete(2),)), "flatten it first"),
    ],
)
def test_spaces_that_cannot_be(space, message):
    with pytest.raises(TypeError, match=message):
        OneHotBox(space)


def test_masks_are_not_taken_by_sample():
    with pytest.raises(ValueError, match="sample discrete_space with them"):
        OneHotBox(spaces.Discrete(2)).sample(mask=np.ones(2, dtype=np.int8))


def test_the_environment_gets_its_own_action():
    plain, wrapped = gymnasium.make("CartPole-v1"), OneHotActions(gymnasium.make("CartPole-v1"))
    np.testing.assert_array_equal(plain.reset(seed=1)[0], wrapped.reset(seed=1)[0])
    for action in (0, 1, 1, 0):
        ours, theirs = wrapped.step(np.eye(2, dtype=np.float32)[action]), plain.step(action)
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert ours[1:4] == theirs[1:4]
    assert wrapped.spec is not None
    assert gymnasium.make(wrapped.spec).action_space == wrapped.action_space


def test_stable_baselines3_finds_nothing_wrong_with_it():
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(OneHotActions(gymnasium.make("CartPole-v1")), warn=False)
