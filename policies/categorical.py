"""A policy in given states: independent categorical variables, one a group, as `torch.distributions` would have it."""

from __future__ import annotations

from functools import cached_property

from jaxtyping import Bool, Float
from torch import Tensor

from gumbelrl.policies.estimators import ESTIMATORS, Estimate, Value
from gumbelrl.policies.masking import mask_logits
from gumbelrl.policies.sampling import Generator, one_hot, sample_one_hot


class CategoricalPolicy:
    """Distribution over one-hot actions `[*batch, group, choice]`.

    Args:
        logits: unnormalised log-probabilities, in nats.
        mask: True where a choice is valid, broadcastable to the logits; None where all are.
    """

    def __init__(
        self,
        logits: Float[Tensor, "*batch group choice"],
        mask: Bool[Tensor, "*batch group choice"] | None = None,
    ) -> None:
        if logits.dim() < 2:
            raise ValueError(f"logits must be [..., group, choice], got {tuple(logits.shape)}")
        self.mask = mask
        self.logits = mask_logits(logits, mask)

    @cached_property
    def log_probs(self) -> Float[Tensor, "*batch group choice"]:
        return self.logits.log_softmax(-1)

    @cached_property
    def probs(self) -> Float[Tensor, "*batch group choice"]:
        return self.log_probs.exp()

    def sample(self, *, noise: Tensor | None = None, generator: Generator = None) -> Tensor:
        """Return a one-hot sample; `noise` is Gumbel noise drawn before, in the shape of the logits."""
        return sample_one_hot(self.logits, noise=noise, generator=generator)

    @property
    def mode(self) -> Float[Tensor, "*batch group choice"]:
        """The most probable action, one-hot; the first of those that tie."""
        return one_hot(self.logits.argmax(-1), self.logits.shape[-1]).to(self.logits.dtype)

    def rsample(
        self,
        value: Value,
        *,
        estimator: str = "gumbel",
        temperature: float | Tensor = 1.0,
        generator: Generator = None,
    ) -> Estimate:
        """Return an estimate of E[value(action)] whose gradient reaches the logits; see `ESTIMATORS`."""
        return ESTIMATORS[estimator](self.logits, value, temperature=temperature, mask=self.mask, generator=generator)

    def log_prob(self, action: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of a one-hot action, in nats, summed over groups."""
        return (self.log_probs * action).sum((-2, -1))

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the entropy in nats, summed over groups."""
        return -(self.probs * self.log_probs).sum((-2, -1))

    def kl(self, other: CategoricalPolicy) -> Float[Tensor, "*batch"]:
        """Return the divergence KL(self ‖ other) in nats, summed over groups."""
        return (self.probs * (self.log_probs - other.log_probs)).sum((-2, -1))
