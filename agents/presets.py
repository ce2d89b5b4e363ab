"""Presets: tuned settings by name, from `presets.toml`, which lies beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gumbelrl.agents.errors import RunError, choose

FILE = Path(__file__).with_name("presets.toml")


@dataclass(frozen=True)
class Preset:
    """Settings that were measured.

    Attributes:
        options: option of the command line, without its dashes -> value.
        result: what they gave, over how many seeds.
        command: what was run.
    """

    options: Mapping[str, Any]
    result: str
    command: str

    def words(self) -> list[str]:
        """Return the options as words of a command line."""
        words: list[str] = []
        for name, value in self.options.items():
            if isinstance(value, bool):
                words.append(f"--{name}" if value else f"--no-{name}")
            else:
                values = value if isinstance(value, list) else [value]
                words += [f"--{name}", *map(str, values)]
        return words


def read_presets(path: Path = FILE) -> dict[str, Preset]:
    """Return the presets of a file.

    Raises:
        RunError: it is not TOML, or a preset lacks a part; the message names it.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise RunError(f"{path} is not TOML: {error}") from error
    presets = {}
    for name, table in tables.items():
        parts = set(table) if isinstance(table, dict) else set()
        if parts != set(Preset.__dataclass_fields__):
            raise RunError(f"{path}: the preset {name} must have options, result and command, got {sorted(parts)}")
        presets[name] = Preset(**table)
    return presets


def with_preset(words: Sequence[str]) -> list[str]:
    """Return the words with those of the preset that they name before them, so that the words' own win.

    Raises:
        RunError: there is no such preset.
    """
    name = None
    for index, word in enumerate(words):
        if word == "--preset" and index + 1 < len(words):
            name = words[index + 1]
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
    if name is None:
        return list(words)
    presets = read_presets()
    return [*presets[choose("preset", name, presets)].words(), *words]
