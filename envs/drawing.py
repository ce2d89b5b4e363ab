"""Pictures of environments, drawn with Pillow: one palette, smooth edges, no window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

if TYPE_CHECKING:
    from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

BACKGROUND: Colour = (250, 249, 246)
INK: Colour = (38, 44, 52)
FAINT: Colour = (222, 219, 211)
BLUE: Colour = (43, 108, 176)
ORANGE: Colour = (221, 107, 32)
GREEN: Colour = (56, 142, 90)
RED: Colour = (197, 48, 48)
PURPLE: Colour = (128, 90, 170)
YELLOW: Colour = (236, 190, 68)
TEAL: Colour = (49, 151, 149)
PALETTE: tuple[Colour, ...] = (BLUE, ORANGE, GREEN, RED, PURPLE, YELLOW, TEAL, INK)

_SCALE = 2  # drawn larger, then shrunk: smooth edges


class Canvas:
    """A picture of `width` × `height` pixels; the origin is at the top left, y grows downwards."""

    def __init__(self, width: int, height: int, background: Colour = BACKGROUND) -> None:
        from PIL import Image, ImageDraw

        self.size = (width, height)
        self._image = Image.new("RGB", (width * _SCALE, height * _SCALE), background)
        self._draw: ImageDraw.ImageDraw = ImageDraw.Draw(self._image)

    def rectangle(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, *, radius: float = 0.0
    ) -> None:
        box = [left * _SCALE, top * _SCALE, right * _SCALE - 1, bottom * _SCALE - 1]
        self._draw.rounded_rectangle(box, radius * _SCALE, fill)

    def circle(
        self, centre: Point, radius: float, fill: Colour | None, *, outline: Colour | None = None, width: float = 2.0
    ) -> None:
        x, y, r = centre[0] * _SCALE, centre[1] * _SCALE, radius * _SCALE
        self._draw.ellipse([x - r, y - r, x + r, y + r], fill, outline, int(width * _SCALE) if outline else 0)

    def line(self, points: list[Point], fill: Colour, *, width: float = 2.0) -> None:
        scaled = [(x * _SCALE, y * _SCALE) for x, y in points]
        self._draw.line(scaled, fill, max(1, int(width * _SCALE)), joint="curve")

    def polygon(self, points: list[Point], fill: Colour) -> None:
        self._draw.polygon([(x * _SCALE, y * _SCALE) for x, y in points], fill)

    def text(self, at: Point, text: str, fill: Colour = INK, *, size: float = 14.0, anchor: str = "mm") -> None:
        """Write `text`; `anchor` as Pillow takes it: `mm` is centred at the point, `lm` starts there."""
        from PIL import ImageFont

        font = ImageFont.load_default(size * _SCALE)
        self._draw.text((at[0] * _SCALE, at[1] * _SCALE), text, fill, font, anchor)

    def array(self) -> UInt8[np.ndarray, "height width 3"]:
        from PIL import Image

        return np.asarray(self._image.resize(self.size, Image.Resampling.BOX)).copy()


def draw_grid(
    colours: list[list[Colour]], *, cell: int = 32, gap: int = 1, background: Colour = FAINT
) -> UInt8[np.ndarray, "height width 3"]:
    """Return a picture of coloured squares, rows from the top."""
    canvas = grid_canvas(len(colours), len(colours[0]), cell=cell, background=background)
    for y, row in enumerate(colours):
        for x, colour in enumerate(row):
            canvas.rectangle(x * cell + gap, y * cell + gap, (x + 1) * cell - gap, (y + 1) * cell - gap, colour)
    return canvas.array()


def grid_canvas(rows: int, columns: int, *, cell: int = 32, background: Colour = FAINT) -> Canvas:
    """Return a canvas of `rows` × `columns` squares of `cell` pixels."""
    return Canvas(columns * cell, rows * cell, background)
