"""DeepSea against bsuite's rules, written again one step at a time."""

import numpy as np
import pytest
import torch

from gumbelrl.envs import DeepSea, policy_values


@pytest.mark.parametrize(("size", "seed"), [(10, 42), (6, 7), (5, None)])
def test_play_follows_bsuites_rules(size, seed):
    """20 episodes of random actions in 8 seas, each beside a diver moved by hand."""
    mapping = np.ones((size, size)) if seed is None else np.random.RandomState(seed).binomial(1, 0.5, [size, size])
    generator, env = np.random.default_rng(0), DeepSea(8, size=size, mapping_seed=seed)
    assert env.reset(0).tolist() == [0] * 8
    column = np.zeros(8, dtype=int)
    for time in range(20 * size):
        row = time % size
        # Half of the divers keep to the diagonal, so that the treasure is found.
        action = np.where(np.arange(8) < 4, mapping[row, column], generator.integers(2, size=8)).astype(int)
        step = env.step(torch.tensor(action))
        right = action == mapping[row, column]
        reward = (right & (column == size - 1)) - right * 0.01 / size
        column = np.clip(column + np.where(right, 1, -1), 0, size - 1)
        at_bottom = row == size - 1
        np.testing.assert_allclose(step.reward, reward, rtol=0, atol=1e-7)
        assert step.terminated.tolist() == [at_bottom] * 8
        assert not step.truncated.any()
        after = np.where(at_bottom, size * size, (row + 1) * size + column)
        assert step.final_observation.tolist() == after.tolist()
        column = column * (not at_bottom)
    assert (step.reward[:4] > 0.98).all()


@pytest.mark.parametrize("size", [2, 10, 30])
def test_the_optimum_and_what_random_play_returns(size):
    env = DeepSea(1, size=size)
    assert abs(env.optimal_return - 0.99) < 1e-12
    random = policy_values(env.table, torch.full((size**2 + 1, 2), 0.5), horizon=size)[0]
    assert abs(float(random) - (2.0**-size - 0.005)) < 1e-12


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="size must be at least 2, got 1"):
        DeepSea(1, size=1)


def test_the_diver_is_where_the_text_says():
    env = DeepSea(1, size=3)
    env.reset(0)
    env.state = torch.tensor([4])
    assert env.describe(0) == "~~~\n~o~\n~~$"
