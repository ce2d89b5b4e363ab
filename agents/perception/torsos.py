"""From an observation to outputs, one network a member: where logits and a linear critic's values come from."""

from __future__ import annotations

from functools import partial
from typing import Any

from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.errors import RunError, choose
from gumbelrl.agents.networks import StackedLinear, StackedMLP
from gumbelrl.agents.perception.convolution import ConvolutionalEncoder, image_shape
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


class ConvolutionalTorso(nn.Module):
    """A `ConvolutionalEncoder` and a multilayer perceptron of what it gives; see both for the arguments."""

    def __init__(
        self,
        streams: RandomStreams,
        space: spaces.Space | None,
        num_outputs: int,
        *,
        normalised: bool = False,
        **network: Any,
    ) -> None:
        super().__init__()
        activation = network.get("activation", "silu")
        self.encoder = ConvolutionalEncoder(streams, space, activation=activation, normalised=normalised)
        self.network = StackedMLP(streams, self.encoder.num_features, num_outputs, **network)

    def forward(self, observation: Float[Tensor, "member batch feature"]) -> Float[Tensor, "member batch out"]:
        return self.network(self.encoder(observation))


# What each makes of an observation. `auto` is conv for images and mlp for all else.
TORSOS: dict[str, str] = {
    "auto": "conv for images, mlp for all else",
    "mlp": "hidden layers over the flat observation",
    "conv": "convolutions over an image, then the hidden layers",
    "pointer": "scores each item of an observation of items by the same weights",
    "recurrent": "the hidden layers over the observation and a memory of those before",
}


# Those of agents whose networks give values of states, or of observation and action, as well as of choices.
FEATURE_TORSOS = ("auto", "mlp", "conv")


def resolve_torso(torso: str, space: spaces.Space | None) -> str:
    """Return the torso that `auto` stands for, or the one named.

    Raises:
        RunError: no torso has that name.
    """
    if choose("torso", torso, TORSOS) != "auto":
        return torso
    return "mlp" if image_shape(space) is None else "conv"


def make_torso(
    streams: RandomStreams,
    num_features: int,
    num_outputs: int,
    *,
    torso: str = "mlp",
    space: spaces.Space | None = None,
    normalised: bool = False,
    **network: Any,
) -> nn.Module:
    """Return the network called `torso`, from features `[member, batch, feature]` to outputs.

    Args:
        streams: one stream a member.
        num_features: length of an observation vector.
        num_outputs: length of what comes out.
        torso: a name in `TORSOS`. What remembers in a `recurrent` one comes before it (`Perception`): the rest is mlp.
        space: of an observation, for torsos that see its shape.
        normalised: observations come with mean 0 and variance 1.
        network: options of `StackedMLP`.

    Raises:
        RunError: no torso has that name, or it does not fit the observations.
    """
    torso = resolve_torso(torso, space)
    if torso == "pointer":
        return PointerTorso(streams, space, num_outputs, **network)
    if torso == "conv":
        return ConvolutionalTorso(streams, space, num_outputs, normalised=normalised, **network)
    return StackedMLP(streams, num_features, num_outputs, **network)


def make_encoder(
    streams: RandomStreams,
    num_features: int,
    *,
    torso: str = "mlp",
    space: spaces.Space | None = None,
    normalised: bool = False,
    activation: str = "silu",
    **_: Any,
) -> tuple[nn.Module, int]:
    """Return what a network of observation *and action* puts its observations through first, and how long that is.

    Arguments as in `make_torso`.

    Raises:
        RunError: the torso gives a value for each output, not features; or it does not fit the observations.
    """
    torso = resolve_torso(torso, space)
    if torso == "pointer":
        raise RunError("--torso pointer gives a value for each choice: use --critic linear")
    if torso == "conv":
        encoder = ConvolutionalEncoder(streams, space, activation=activation, normalised=normalised)
        return encoder, encoder.num_features
    return nn.Identity(), num_features
