"""Virtual environments of the peers, made from their pinned requirements and kept until these change."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
STAMP = "requirements.sha256"


class CannotInstall(Exception):
    """A peer's environment cannot be made; the message says why in a sentence."""


def environment(name: str, folder: Path) -> Path:
    """Return the Python of the environment of `peers/NAME.txt`, which is made if it is not there or out of date.

    Raises:
        CannotInstall: pip failed.
    """
    requirements = PEERS / f"{name}.txt"
    home = folder / name
    python, stamp = home / "bin" / "python", home / STAMP
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"making the environment of {name} in {home} (a few minutes) …", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(home)], name)
    # torch alone and first, so that what follows finds it there; where the index has a build without CUDA, it is that.
    torch = [line for line in requirements.read_text().splitlines() if line.startswith("torch==")]
    for what in [torch, ["-r", str(requirements)]]:
        if what:
            _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what], name)
    stamp.write_text(wanted)
    return python


def _run(command: list[str], name: str) -> None:
    environment = {**os.environ, "PYTHONPATH": ""}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except OSError as error:
        raise CannotInstall(f"{name}: {error}") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise CannotInstall(f"{lines[0].removeprefix('ERROR: ') if lines else 'pip failed'}")
