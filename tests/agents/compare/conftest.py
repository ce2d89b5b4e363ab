"""Runs as training leaves them, with numbers that are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gumbelrl.agents.compare.__main__ import main
from gumbelrl.agents.run_config import RunConfig

STEPS = np.arange(1, 33) * 4096


def write_run(folder, *, final=(480.0, 490.0, 500.0), begin=20.0, speed=1.0, finished=True, diagnosed=True, **fields):
    """Write a run whose seeds end at `final` and rise to it within about `40,000 / speed` steps."""
    config = replace(RunConfig(), seeds=tuple(range(len(final))), output=folder, **fields)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    noise = np.random.default_rng(list(folder.name.encode()))  # whatever lies above it
    with (folder / "metrics.jsonl").open("w") as file:
        for step in STEPS:
            for seed, end in zip(config.seeds, final, strict=True):
                rise = 1 - np.exp(-step * speed / 15_000)
                row = {
                    "seed": seed,
                    "step": int(step),
                    "train/return": begin + (end - begin) * rise + begin / 20 * noise.normal(),
                    "train/episodes": float(step / 50),
                    "policy/entropy": 0.69 - 0.5 * rise,
                    "policy/temperature": 1.0,
                    # Diagnosed at every fourth row only, as in training.
                    "gradient/bias": 0.01 * rise if diagnosed and step % (4 * 4096) == 0 else None,
                    "gradient/variance": 0.2 + rise if diagnosed and step % (4 * 4096) == 0 else None,
                    "gradient/cosine": 0.9 * rise if diagnosed and step % (4 * 4096) == 0 else None,
                    "policy/soft_hard_gap": 0.1 * (1 - rise) if diagnosed and step % (4 * 4096) == 0 else None,
                }
                file.write(json.dumps(row) + "\n")
    if finished:
        members = [
            {"seed": seed, "steps": 131_072, "eval/sampled_return": end, "eval/greedy_return": min(1.01 * end, 500.0)}
            for seed, end in zip(config.seeds, final, strict=True)
        ]
        (folder / "results.json").write_text(json.dumps({"train_seconds": 12.5, "members": members}))
    return folder


@pytest.fixture
def make_run(tmp_path):
    return lambda name, **options: write_run(tmp_path / name, **options)


@pytest.fixture(scope="session")
def three_policies(tmp_path_factory):
    """Three policies with ten seeds each in two environments, one run that stopped early and one that failed."""
    root = tmp_path_factory.mktemp("runs")
    good = tuple(np.linspace(470, 500, 10))
    middling = tuple(np.linspace(300, 480, 10))
    for env in ("CartPole-v1", "gumbelrl/DeepSea-v0"):
        place = root / env.replace("/", "-")
        scale = 1.0 if env == "CartPole-v1" else 1 / 500
        rest = {"env": env, "begin": 20.0 * scale, "diagnosed": env == "CartPole-v1"}
        write_run(place / "a", policy="gumbel", final=tuple(scale * x for x in good), **rest)
        write_run(place / "b", policy="softmax", final=tuple(scale * (x - 1) for x in good), speed=0.5, **rest)
        write_run(place / "c", policy="reinforce", final=tuple(scale * x for x in middling), speed=0.3, **rest)
    write_run(root / "stopped", policy="exact", final=(500.0, 500.0), finished=False)
    failed = write_run(root / "failed", policy="reinmax", final=(500.0,), finished=False)
    (failed / "failure.json").write_text(json.dumps({"error": "reward is not finite ([inf]) <at> step 36"}))
    return root


@pytest.fixture(scope="session")
def reported(three_policies, tmp_path_factory):
    """Return the folder of their report."""
    folder = tmp_path_factory.mktemp("out") / "report"
    assert main([str(three_policies), "--output", str(folder)]) == 0
    return folder
