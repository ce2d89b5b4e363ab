"""The colours of plots and page, light and dark; no series is told from another by its colour alone."""

from __future__ import annotations

# name -> (light, dark); contrast with the paper is at least 4.5 for text and 3 for lines (WCAG 2.2, 1.4.3 and 1.4.11)
COLOURS = {
    "paper": ("#ffffff", "#12161d"),
    "ink": ("#1c2430", "#e6e9ef"),
    "muted": ("#566173", "#a3adbd"),
    "rule": ("#dde1e8", "#303846"),
    "series-0": ("#0b62c4", "#6cb0ff"),
    "series-1": ("#c2470c", "#ff9b57"),
    "series-2": ("#0d7a5f", "#3fd6ab"),
    "series-3": ("#7d3ac1", "#c29bff"),
    "series-4": ("#b8185e", "#ff86b6"),
    "series-5": ("#7a5a00", "#e8c547"),
    "series-6": ("#0a7490", "#4fd3ee"),
    "series-7": ("#4a5669", "#c3cbd8"),
}
NUM_SERIES = 8
DASHES: tuple[tuple[float, ...], ...] = ((), (6.0, 2.0), (1.6, 1.6), (7.0, 2.0, 1.6, 2.0))  # in line widths
MARKERS = ("o", "s", "D", "^")


def light(name: str) -> str:
    return COLOURS[name][0]


def series_colour(index: int) -> str:
    """Return the name of the colour of the series with this index."""
    return f"series-{index % NUM_SERIES}"


def series_pattern(index: int) -> int:
    """Return which dashes and marker it has; series with the same colour have different ones, up to 32."""
    return (index + index // NUM_SERIES) % len(DASHES)


def variables(theme: int) -> str:
    """Return CSS custom properties; theme 0 is light, 1 dark."""
    return " ".join(f"--{name}: {pair[theme]};" for name, pair in COLOURS.items())
