"""The rooms and the one-way imports between them, from the syntax tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("agents", "envs", "policies")
MAY_IMPORT = {
    "agents": {"agents", "envs", "policies", "random"},
    "envs": {"envs", "random"},
    "policies": {"policies", "random"},
}
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def imported(path):
    """Return every module imported anywhere in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    for module in imported(path):
        parts = module.split(".")
        assert parts[0] not in ROOMS, f"{path}: import gumbelrl.{module}"
        if parts[0] == "gumbelrl" and len(parts) > 1:
            assert parts[1] in MAY_IMPORT[room], f"{room} must not import {module}"


@pytest.mark.parametrize(
    ("library", "file"),
    [
        ("stable_baselines3", "sb3.py"),
        ("wandb", "wandb_runs.py"),
        ("wandb_workspaces", "dashboard.py"),
        ("tensorboard", "tensorboard.py"),
        ("av", "videos.py"),
        ("matplotlib", "plots.py"),
        ("tyro", "command_line.py"),
        ("scipy", "statistics.py"),
    ],
)
def test_one_file_imports_each_heavy_library(library, file):
    users = [path for path in FILES if any(module.split(".")[0] == library for module in imported(path))]
    # A room may have a folder of that name instead of a file.
    assert all(path.name == file or path.parent.name == file.removesuffix(".py") for path in users), users


def test_the_core_imports_without_the_heavy_libraries():
    blocked = ["stable_baselines3", "wandb", "matplotlib", "scipy", "rich", "tyro", "yaml", "tensorboard", "av"]
    code = (
        "import sys\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import gumbelrl.agents, gumbelrl.envs, gumbelrl.policies, gumbelrl.agents.experiment\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT.parent)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_a_screen_and_files_hold_one_concept(path):
    assert path.stem not in {"utils", "common", "helpers"}
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            if body:
                assert (body[-1].end_lineno or 0) - body[0].lineno < 60, f"{path}: {node.name} is too long"
