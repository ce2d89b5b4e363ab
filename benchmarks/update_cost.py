"""What an update must do at least: floating-point operations of its matrix products, and bytes that it must move.

A layer of I inputs and O outputs on a batch of B costs 2·B·I·O operations forward, as many again for the gradient of
its weights, and as many for that of its inputs, which the first layer does not need. Only products count, as
`torch.utils.flop_counter` counts them; the tests compare.

Bytes are those of float32 that a program with unlimited registers and no cache would move: parameters once a pass over
them, each hidden layer's output written forward and read backward, the batch once, and in Adam parameter, gradient and
two moments read and three of them written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Cost:
    """Work of one update of one member.

    Attributes:
        flops: floating-point operations of matrix products.
        bytes: bytes read and written.
    """

    flops: int
    bytes: int

    def seconds(self, *, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the least time: the larger of computing alone and moving alone (Williams et al. 2009, roofline)."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def layers(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return (inputs, outputs) of each layer."""
    return list(pairwise(sizes))


def forward_flops(batch: int, sizes: Sequence[int]) -> int:
    return sum(2 * batch * i * o for i, o in layers(sizes))


def backward_flops(batch: int, sizes: Sequence[int]) -> int:
    """Return the operations of the gradients of all weights and of all inputs but the network's own."""
    first, *others = layers(sizes)
    return 2 * batch * first[0] * first[1] + sum(4 * batch * i * o for i, o in others)


def num_parameters(sizes: Sequence[int], *, layer_norm: bool = False) -> int:
    hidden = sum(sizes[1:-1])
    return sum((i + 1) * o for i, o in layers(sizes)) + (2 * hidden if layer_norm else 0)


def _passes(batch: int, sizes: Sequence[int], *, forward: int, backward: int) -> Cost:
    """Return the cost of so many passes through a network, without an optimiser."""
    weights, outputs = num_parameters(sizes), batch * sum(sizes[1:])
    moved = forward * (weights + outputs) + backward * (2 * weights + outputs)
    return Cost(
        forward * forward_flops(batch, sizes) + backward * backward_flops(batch, sizes),
        FLOAT * moved,
    )


def _adam(count: int) -> Cost:
    return Cost(0, FLOAT * 7 * count)


def _sum(*costs: Cost) -> Cost:
    return Cost(sum(each.flops for each in costs), sum(each.bytes for each in costs))


def sac_update(*, batch: int, features: int, choices: int, hidden: Sequence[int], critics: int = 2) -> Cost:
    """Return the cost of an update of `sac` with linear critics: values of all choices in one pass.

    Forward: the actor on this state and the next, each critic on this state, each slow critic on the next. Backward:
    the actor and each critic. The slow critics follow: two reads and a write of each parameter.
    """
    sizes = (features, *hidden, choices)
    count = num_parameters(sizes)
    rows = Cost(0, FLOAT * batch * (2 * features + choices + 2))
    critic = [
        _sum(
            _passes(batch, sizes, forward=2, backward=1),
            _adam(count),
            Cost(0, FLOAT * 3 * count),
        )
    ] * critics
    return _sum(rows, _passes(batch, sizes, forward=2, backward=1), _adam(count), *critic)


def actor_critic_update(*, batch: int, features: int, choices: int, hidden: Sequence[int]) -> Cost:
    """Return the cost of an optimiser step of `actor-critic` on a minibatch: actor and critic, there and back."""
    sizes = (features, *hidden, choices)
    rows = Cost(0, FLOAT * batch * (features + 2 * choices + 1))
    each = _sum(_passes(batch, sizes, forward=1, backward=1), _adam(num_parameters(sizes)))
    return _sum(rows, each, each)
