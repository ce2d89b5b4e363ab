"""From an observation to outputs, one network a member: where logits and a linear critic's values come from."""

from __future__ import annotations

from functools import partial
from typing import Any

from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.networks import StackedLinear, StackedMLP
from gumbelrl.policies import PointerHead
from gumbelrl.random import RandomStreams


class PointerTorso(nn.Module):
    """Scores items by a `PointerHead`: the first row of an observation is the query, the others are the items.

    Every item is scored by the same weights, so that what is learned of one place holds for all.

    Args:
        streams: one stream a member.
        space: of an observation, a Box `[1 + item, feature]`.
        num_outputs: the number of items.
        hidden: units that query and items are projected to: the last entry.
        last_gain: scale of the last weights.

    Raises:
        RunError: observations are not rows of one item for each output.
    """

    def __init__(
        self,
        streams: RandomStreams,
        space: spaces.Space | None,
        num_outputs: int,
        *,
        hidden: tuple[int, ...],
        last_gain: float = 1.0,
        **_: object,
    ) -> None:
        super().__init__()
        shape = space.shape if isinstance(space, spaces.Box) else None
        if shape is None or len(shape) != 2 or shape[0] != num_outputs + 1:
            raise RunError(
                f"the pointer torso needs observations [1 + items, features], a query and an item for each of the "
                f"{num_outputs} choices; {space} is not that: use the mlp torso"
            )
        self.shape = shape
        self.head = PointerHead(
            shape[1], shape[1], hidden=hidden[-1], gain=last_gain, linear=partial(StackedLinear, streams)
        )

    def forward(self, observation: Float[Tensor, "member batch feature"]) -> Float[Tensor, "member batch item"]:
        rows = observation.unflatten(-1, self.shape)
        return self.head.logits(rows[..., 0, :], rows[..., 1:, :]).squeeze(-2)


TORSOS: dict[str, type[nn.Module]] = {"mlp": StackedMLP, "pointer": PointerTorso}


def make_torso(
    streams: RandomStreams,
    num_features: int,
    num_outputs: int,
    *,
    torso: str = "mlp",
    space: spaces.Space | None = None,
    **network: Any,
) -> nn.Module:
    """Return the network called `torso`.

    Args:
        streams: one stream a member.
        num_features: length of an observation vector.
        num_outputs: length of what comes out.
        torso: a name in `TORSOS`.
        space: of an observation, for torsos that see its shape.
        network: options of `StackedMLP`.

    Raises:
        RunError: no torso has that name, or it does not fit the observations.
    """
    if choose("torso", torso, TORSOS) == "mlp":
        return StackedMLP(streams, num_features, num_outputs, **network)
    return PointerTorso(streams, space, num_outputs, **network)
