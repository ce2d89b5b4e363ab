"""The noise: every random number that turns logits into an action, in float32 whatever the logits are."""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, library

from gumbelrl.random import RandomStreams

Generator: TypeAlias = torch.Generator | RandomStreams | None

_TINY = torch.finfo(torch.float32).tiny
_BELOW_ONE = 1.0 - 2.0**-24


def exponential(shape: torch.Size, *, generator: Generator, device: torch.device) -> Float[Tensor, "*shape"]:
    """Return standard exponential noise in float32, above zero and finite.

    Args:
        shape: of logits, `[..., group, choice]`; `[..., member, batch, group, choice]` with `RandomStreams`, whose
            rows are the members.
        generator: a `torch.Generator`, None for torch's global one, or one stream a member.

    Raises:
        ValueError: the streams are not one a member.
    """
    if isinstance(generator, RandomStreams):
        if len(shape) < 4 or shape[-4] != generator.rows:
            raise ValueError(
                f"{generator.rows} random streams need logits [..., member, batch, group, choice] "
                f"with {generator.rows} members, got {tuple(shape)}"
            )
        return generator.exponential(*shape[:-4], *shape[-3:]).movedim(0, -4)
    if device.type == "cpu":
        if torch.compiler.is_compiling() and generator is None:
            noise = torch.empty(shape, dtype=torch.float32)
            _opaque_exponential(noise)
            return noise
        return _exponential_on_cpu(shape, generator)
    # In half precision exponential_ returns 0, whose logarithm is -inf (estimators draw in float32 for that reason).
    noise = torch.empty(shape, dtype=torch.float32, device=device).exponential_(generator=generator)
    return noise.clamp_min_(_TINY)


def _exponential_on_cpu(shape: torch.Size, generator: torch.Generator | None) -> Float[Tensor, "*shape"]:
    """Return the same from 31 random bits each, in about a quarter of the time: torch's loop there is not vectorised.

    −log(1 − u) instead of −log u keeps what is near zero finely spaced: that is what decides rare choices.
    """
    bits = torch.empty(shape, dtype=torch.int32).random_(generator=generator)
    # The half makes zero impossible, the clamp one: a float32 above 2^24 is rounded.
    uniform = bits.to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_max_(_BELOW_ONE)
    return uniform.neg_().log1p_().neg_()


# A compiler would draw the bits in a scalar loop of its own, four times as slow; opaque to it they are also the same.
# An operator without mutation would be merged with another of the same shape.
@library.custom_op("gumbelrl::exponential", mutates_args=("out",))
def _opaque_exponential(out: Tensor) -> None:
    out.copy_(_exponential_on_cpu(out.shape, None))


def gumbel_noise(logits: Tensor, *, generator: Generator = None) -> Float[Tensor, "*batch group choice"]:
    """Return standard Gumbel noise in the shape of `logits`, float32 and finite."""
    return -torch.log(exponential(logits.shape, generator=generator, device=logits.device))


def one_hot(index: Int[Tensor, "*batch group"], num_choices: int) -> Float[Tensor, "*batch group choice"]:
    """Return float32 one-hot vectors; exactly one entry is 1 even where values tie."""
    if torch.compiler.is_compiling():
        # A comparison is fused with what comes before and after it, a scatter is not; eagerly the scatter is faster.
        return (index.unsqueeze(-1) == torch.arange(num_choices, device=index.device)).float()
    return torch.zeros(*index.shape, num_choices, device=index.device).scatter_(-1, index.unsqueeze(-1), 1.0)


def one_hot_of_largest(scores: Float[Tensor, "*batch group choice"]) -> Float[Tensor, "*batch group choice"]:
    """Return float32 one-hot vectors of the largest score of each group, one of them on ties; no gradient."""
    # torch.max finds the place of the largest faster than torch.argmax does.
    return one_hot(scores.detach().max(-1).indices, scores.shape[-1])


def perturbed(logits: Tensor, noise: Tensor | None, generator: Generator) -> Float[Tensor, "*batch group choice"]:
    """Return logits + Gumbel noise in float32 or wider; `noise` is drawn unless it is given."""
    if noise is None:
        noise = gumbel_noise(logits, generator=generator)
    return logits.to(torch.promote_types(logits.dtype, torch.float32)) + noise


def sample_one_hot(
    logits: Float[Tensor, "*batch group choice"], *, noise: Tensor | None = None, generator: Generator = None
) -> Float[Tensor, "*batch group choice"]:
    """Sample a one-hot action by the Gumbel-max trick; no gradient.

    Reference: Gumbel 1954; Maddison, Tarlow & Minka 2014, arXiv:1411.0030, section 2.
    """
    with torch.no_grad():
        return one_hot_of_largest(perturbed(logits, noise, generator)).to(logits.dtype)


def conditional_scores(
    logits: Float[Tensor, "*batch group choice"],
    action: Float[Tensor, "*batch group choice"],
    noise: Float[Tensor, "*sample *batch group choice"],
) -> Float[Tensor, "*sample *batch group choice"]:
    """Return logits + Gumbel noise as it is distributed given that `action` came out of Gumbel-max.

    The largest score is Gumbel around logsumexp(logits) whatever the action; the others are Gumbel around their logits,
    cut off at it. Written with `logaddexp`, so that it holds for logits of any size.

    Args:
        action: one-hot.
        noise: standard exponential; more axes in front give more samples.

    Reference: Maddison, Tarlow & Minka 2014, arXiv:1411.0030, section 3; Paulus et al. 2020, arXiv:2010.04838, eq. 9.
    """
    log_noise = torch.log(noise)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    chosen = action > 0
    top = torch.where(chosen, log_noise, 0.0).sum(-1, keepdim=True) - wide.logsumexp(-1, keepdim=True)
    return -torch.where(chosen, top, torch.logaddexp(log_noise - wide, top))
