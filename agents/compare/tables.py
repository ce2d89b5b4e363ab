"""HTML tables that a screen reader can walk: a caption, headers with a scope, a region that scrolls by keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gumbelrl.agents.compare.statistics import Estimate


def table(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Return a table; a row is its header and its cells, which are `<td>` elements."""
    numbers = ["number" in cell.split(">", 1)[0] for cell in rows[0][1]] if rows else []
    classes = [False, *numbers]
    columns = "".join(
        f'<th scope="col"{" class=number" if number else ""}>{escape(name)}</th>'
        for name, number in zip(head, classes, strict=True)
    )
    body = "".join(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>\n' for name, cells in rows)
    return (
        f'<p class="caption" aria-hidden="true">{escape(caption)}</p>'  # read out as the caption
        f'<div class="scroll" role="region" aria-label="{escape(caption)}" tabindex="0"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{columns}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def text_cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def number_cell(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def interval_cell(found: Estimate, form: str) -> str:
    """Return a value and, quieter, its interval."""
    interval = (
        "" if found.low != found.low else f' <span class="interval">[{found.low:{form}}, {found.high:{form}}]</span>'
    )
    return f'<td class="number">{found.value:{form}}{interval}</td>'
