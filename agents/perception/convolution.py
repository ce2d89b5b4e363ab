"""Images: convolutions of their own for each member."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor, nn

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.networks import ACTIVATIONS, StackedLinear
from gumbelrl.random import RandomStreams


class ImageShape(NamedTuple):
    """Rows, columns and channels of an image, and whether the space has the channels in front."""

    height: int
    width: int
    channels: int
    channels_first: bool


def image_shape(space: spaces.Space | None) -> ImageShape | None:
    """Return the shape of an image, or None where the space is not one.

    An image is a Box of three axes, of which the two of space have at least 3 places. Channels are the last axis, as in
    MinAtar, unless the first is the smallest of the three, as in stacked frames.
    """
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return None
    first, middle, last = space.shape
    in_front = first < min(middle, last)
    shape = ImageShape(middle, last, first, True) if in_front else ImageShape(first, middle, last, False)
    return shape if min(shape.height, shape.width) >= 3 else None


class Convolution(NamedTuple):
    """A layer: output channels, rows and columns of its window, and the step between windows."""

    channels: int
    window: int
    stride: int


def layers_for(shape: ImageShape) -> tuple[Convolution, ...]:
    """Return the layers for an image by its size.

    Small boards: one layer of 16 channels of 3 × 3 (Young & Tian 2019, arXiv:1903.03176, section 3). From 36 × 36 on,
    which is the smallest that it takes: the three layers of Mnih et al. 2015, "Human-level control through deep
    reinforcement learning".
    """
    if min(shape.height, shape.width) < 36:
        return (Convolution(16, 3, 1),)
    return (Convolution(32, 8, 4), Convolution(64, 4, 2), Convolution(64, 3, 1))


class StackedConvolution(nn.Module):
    """`[member, batch, row, column, channel]` to the same with other sizes, a kernel of its own for each member.

    The window's places are cut out as slices, put side by side, and multiplied by the weights of all members in one
    `baddbmm`. Channels come last, so that a slice is copied in runs. Measured on one CPU thread against a grouped
    `conv2d` (10 members, 512 boards of 10 × 10 × 4): 74 ms forward and backward to its 99.
    """

    def __init__(self, streams: RandomStreams, channels: int, layer: Convolution) -> None:
        super().__init__()
        self.layer = layer
        self.linear = StackedLinear(streams, layer.window**2 * channels, layer.channels)

    def forward(self, images: Float[Tensor, "member batch row column channel"]) -> Tensor:
        _, window, stride = self.layer
        rows, columns = (1 + (size - window) // stride for size in images.shape[2:4])
        slices = [
            images[:, :, y : y + stride * (rows - 1) + 1 : stride, x : x + stride * (columns - 1) + 1 : stride]
            for y in range(window)
            for x in range(window)
        ]
        patches = torch.cat(slices, dim=-1)
        outputs = self.linear(patches.flatten(1, 3))
        return outputs.unflatten(1, patches.shape[1:4])


class ConvolutionalEncoder(nn.Module):
    """Images, as flat vectors `[member, batch, feature]`, to features, by a convolutional network a member.

    Args:
        streams: one a member.
        space: of an observation, an image; see `image_shape`. Bytes are divided by 255, unless they are `normalised`.
        activation: a name in `ACTIVATIONS`.
        normalised: observations come with mean 0 and variance 1.

    Attributes:
        num_features: length of what comes out.

    Raises:
        RunError: observations are not images.
    """

    def __init__(
        self,
        streams: RandomStreams,
        space: spaces.Space | None,
        *,
        activation: str = "silu",
        normalised: bool = False,
    ) -> None:
        super().__init__()
        shape = image_shape(space)
        if shape is None:
            raise RunError(
                "the conv torso needs images, observations of three axes (rows, columns and channels) with at least 3 "
                f"rows and columns; {space} is not that: use the mlp torso"
            )
        assert space is not None
        self.shape = shape
        self.scale = 1.0 / 255.0 if str(space.dtype) == "uint8" and not normalised else 1.0
        self.activation = ACTIVATIONS[activation]
        self.layers = nn.ModuleList()
        height, width, channels, _ = shape
        for layer in layers_for(shape):
            self.layers.append(StackedConvolution(streams, channels, layer))
            height, width = (1 + (size - layer.window) // layer.stride for size in (height, width))
            channels = layer.channels
        self.num_features = math.prod((height, width, channels))

    def forward(self, observation: Float[Tensor, "member batch feature"]) -> Float[Tensor, "member batch out"]:
        height, width, channels, channels_first = self.shape
        if channels_first:
            images = observation.unflatten(-1, (channels, height, width)).movedim(-3, -1)
        else:
            images = observation.unflatten(-1, (height, width, channels))
        features = images * self.scale if self.scale != 1.0 else images
        for layer in self.layers:
            features = self.activation(layer(features))
        return features.flatten(2)
