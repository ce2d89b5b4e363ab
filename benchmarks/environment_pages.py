"""Writes the generated parts of docs/environments.md: `python benchmarks/environment_pages.py`."""

from __future__ import annotations

import json
from pathlib import Path

import environments
from separation import prediction_table, table

from gumbelrl.envs.listing import listing, markdown

from generated import write_parts

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parts = {"environments": markdown(listing())}
    speed = RESULTS / "environments.json"
    if speed.exists():
        parts["speed"] = environments.table(json.loads(speed.read_text())["rows"])
    separation = RESULTS / "separation.json"
    if separation.exists():
        found = json.loads(separation.read_text())["found"]
        parts |= {"predictions": prediction_table(found), "separation": table(found)}
    write_parts("environments.md", parts)


if __name__ == "__main__":
    main()
