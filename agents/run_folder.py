"""The folder of a run: its name, whether it is free, and the small files in it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from gumbelrl.agents.compare.runs import FAILURE
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.run_config import RunConfig


def default_folder(config: RunConfig) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.env.replace('/', '-')}_{config.agent}_{config.policy}_{stamp}"


def claim_folder(folder: Path) -> None:
    """Make the run's folder; one that holds a run is left alone.

    Raises:
        RunError: the folder holds another run, or something that is not a folder is in the way.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "another run" if (folder / "config.json").exists() else "other files"
        raise RunError(
            f"the output folder {folder} holds {what}: name another with --output, "
            f"or go on with that run by --resume {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def note_failure(folder: Path, error: Exception) -> None:
    """Leave a word about what stopped a run, for those who compare runs; `error` is what matters, not this note."""
    with suppress(OSError):
        what = str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"
        write_whole(folder / FAILURE, json.dumps({"error": what}) + "\n")


def read_config(folder: Path) -> RunConfig:
    """Return what the run in `folder` is.

    Raises:
        RunError: there is no run there.
    """
    path = folder / "config.json"
    try:
        config = RunConfig.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(f"--resume {folder}: there is no run there (no {path})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"--resume {folder}: {path} is not a run's configuration ({error})") from error
    return replace(config, output=folder)
