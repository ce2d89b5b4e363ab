"""Matplotlib's SVG made fit for a page: colours from variables, text as text, unique ids, a title and a description."""

from __future__ import annotations

import re
from html import escape

from gumbelrl.agents.compare.palette import COLOURS, light, variables

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_ID = re.compile(r'\sid="([^"]+)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]+)')


def adapt(svg: str, *, name: str, title: str, description: str) -> str:
    """Return the `<svg>` element alone; colours are the page's, or those that `standalone` defines.

    Args:
        name: makes the ids unique where one page holds several pictures.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour in COLOURS:
        svg = re.sub(re.escape(light(colour)) + r"\b", f"var(--{colour})", svg, flags=re.IGNORECASE)
    svg = re.sub(r"font-family: [^;\"]+", f"font-family: {FONT}", svg)
    svg = re.sub(r"(font: [^;\"]*?px) [^;\"]+", rf"\1 {FONT}", svg)
    svg = _rename_ids(svg, name)
    view_box = re.search(r'viewBox="[^"]+"', svg)
    assert view_box is not None
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view_box[0]} '
        f'role="img" aria-labelledby="{name}-title {name}-description">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-description">{escape(description)}</desc>\n'
    )
    return head + svg[svg.index(">") + 1 :].strip()


def standalone(svg: str) -> str:
    """Return an adapted picture as a file of its own, light or dark as its viewer prefers."""
    style = (
        f"<style>:root {{ {variables(0)} background: var(--paper); }} "
        f"@media (prefers-color-scheme: dark) {{ :root {{ {variables(1)} }} }}</style>\n"
    )
    place = svg.index("<title")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg[:place]}{style}{svg[place:]}\n'


def _rename_ids(svg: str, name: str) -> str:
    """Keep only ids that something refers to, each with the picture's name in front."""
    used = set(_REFERENCE.findall(svg))
    svg = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", svg)
    return _REFERENCE.sub(lambda found: found[0].replace(f"#{found[1]}", f"#{name}-{found[1]}"), svg)
