"""Noise that other libraries draw too."""

import pytest
import torch


@pytest.fixture
def torchs_noise(monkeypatch):
    """Eager estimators draw what `Tensor.exponential_` draws from the same seed, as `gumbel_softmax` does."""

    def exponential(shape, generator):
        return torch.empty(shape).exponential_(generator=generator)

    monkeypatch.setattr("gumbelrl.policies.sampling._exponential_on_cpu", exponential)
