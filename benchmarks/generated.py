"""Pages with generated parts, between `<!-- generated: NAME -->` and `<!-- end -->`."""

from __future__ import annotations

from pathlib import Path

MARK = "<!-- generated: {} -->"
END = "<!-- end -->"
DOCS = Path(__file__).parents[1] / "docs"


def write_parts(page: str, parts: dict[str, str]) -> None:
    """Replace parts of docs/`page` by name.

    Raises:
        ValueError: the page has no such part.
    """
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        start, end = _place(text, page, name)
        text = f"{text[:start]}\n\n{part}\n\n{text[end:]}"
    path.write_text(text, encoding="utf-8")


def read_part(page: str, name: str) -> str:
    """Return a generated part of docs/`page` as it stands there."""
    text = (DOCS / page).read_text(encoding="utf-8")
    start, end = _place(text, page, name)
    return text[start:end].strip()


def _place(text: str, page: str, name: str) -> tuple[int, int]:
    mark = MARK.format(name)
    start = text.find(mark)
    end = text.find(END, start)
    if start < 0 or end < 0:
        raise ValueError(f"docs/{page} has no part {mark} … {END}")
    return start + len(mark), end
