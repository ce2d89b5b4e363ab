"""The noise itself."""

import math

import pytest
import torch

from gumbelrl.policies.sampling import exponential, sample_one_hot


def draw(count, **options):
    return exponential(torch.Size((count,)), device=torch.device("cpu"), **options)


def test_noise_is_exponential():
    """Kolmogorov and Smirnov's statistic of 10^6 draws, below its value at a failure rate of 1e-6 (2.69 / √n)."""
    count = 1_000_000
    noise = draw(count, generator=torch.Generator().manual_seed(0)).double().sort().values
    expected = 1.0 - torch.exp(-noise)
    rank = torch.arange(count, dtype=torch.float64) / count
    assert torch.maximum(expected - rank, rank + 1 / count - expected).max() < 2.69 / math.sqrt(count)
    assert noise.min() > 0
    assert noise.isfinite().all()


def test_extremes_of_the_bits_are_finite_and_above_zero(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, generator: self.copy_(torch.tensor([0, 1, 2**31 - 1])))
    low, next_low, high = draw(3, generator=None).double().tolist()
    assert low == pytest.approx(2.0**-32)
    assert next_low == pytest.approx(3 * 2.0**-32)
    assert high == pytest.approx(24 * math.log(2.0))


def test_rare_choices_are_as_frequent_as_they_should_be():
    """Probability 1e-5 among four million draws: |z| < 5, a failure rate below 1e-6."""
    probs, count = torch.tensor([1.0 - 1e-5, 1e-5]), 4_000_000
    action = sample_one_hot(probs.log().expand(count, 1, 2), generator=torch.Generator().manual_seed(1))
    z = (action[:, 0, 1].sum() - count * 1e-5) / math.sqrt(count * 1e-5)
    assert z.abs() < 5


def test_the_generator_decides_and_the_global_seed_does_without_one():
    assert torch.equal(
        draw(5, generator=torch.Generator().manual_seed(3)), draw(5, generator=torch.Generator().manual_seed(3))
    )
    torch.manual_seed(3)
    assert torch.equal(draw(5, generator=None), draw(5, generator=torch.Generator().manual_seed(3)))
