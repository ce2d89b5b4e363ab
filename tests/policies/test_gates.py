"""Gates are the estimators of the same names for two choices, element by element."""

import pytest
import torch

from gumbelrl.policies import ESTIMATORS
from gumbelrl.policies.gates import GATES, gate, logistic_noise
from gumbelrl.policies.sampling import gumbel_noise
from gumbelrl.random import RandomStreams

LOGITS = torch.linspace(-3, 3, 60).view(2, 30, 1)


def pairs(logits):
    """[member, batch, unit] -> the logits of opening and of staying shut, [member, batch, unit, 2]."""
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("kind", ["gumbel", "straight-through", "argmax-st"])
def test_a_gate_is_the_estimator_of_its_name_given_the_same_noise(kind, temperature):
    weight = torch.randn(LOGITS.shape, generator=torch.Generator().manual_seed(0))
    theirs = LOGITS.clone().requires_grad_()
    estimate = ESTIMATORS[kind](
        pairs(theirs),
        lambda action: (action[..., 0] * weight).sum(-1),
        temperature=temperature,
        generator=RandomStreams([5, 6]),
    )
    estimate.objective.sum().backward()

    noise = gumbel_noise(pairs(LOGITS), generator=RandomStreams([5, 6]))
    ours = LOGITS.clone().requires_grad_()
    opened = gate(kind, ours, noise[..., 0] - noise[..., 1], temperature)
    (opened * weight).sum().backward()
    assert torch.equal(opened.detach(), estimate.action[..., 0])
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_the_sigmoid_gate_is_a_sigmoid():
    logits = LOGITS.clone().requires_grad_()
    opened = gate("sigmoid", logits)
    opened.sum().backward()
    torch.testing.assert_close(opened, torch.sigmoid(LOGITS))
    torch.testing.assert_close(logits.grad, torch.sigmoid(LOGITS) * torch.sigmoid(-LOGITS))


@pytest.mark.parametrize("kind", ["straight-through", "gumbel"])
def test_a_sampled_gate_is_open_as_often_as_its_logit_says(kind):
    """Within 5 standard errors: fails by chance in fewer than 1 of 10⁵ runs (seeded: never or always)."""
    logits = torch.tensor([[-4.0, -1.0, 0.0, 1.0, 4.0]])
    noise = logistic_noise((200_000, 5), generator=RandomStreams([0]))
    share = gate(kind, logits, noise[0]).mean(0)
    want = torch.sigmoid(logits[0])
    assert ((share - want).abs() < 5 * (want * (1 - want) / 200_000).sqrt()).all()


@pytest.mark.parametrize("kind", GATES)
def test_without_noise_a_gate_takes_the_likelier_value(kind):
    opened = gate(kind, torch.tensor([-2.0, 2.0]))
    assert ((opened > 0.5) == torch.tensor([False, True])).all()
    assert kind == "sigmoid" or torch.equal(opened, torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("kind", GATES)
def test_compiled_arithmetic_is_the_same(kind, monkeypatch):
    noise = logistic_noise((30, 1), generator=RandomStreams([0, 1]))
    results = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        logits = LOGITS.clone().requires_grad_()
        opened = gate(kind, logits, noise, 0.7)
        opened.square().sum().backward()
        results.append((opened.detach(), logits.grad))
    torch.testing.assert_close(results[0], results[1])
