"""Several runs as one piece of work: trained one after another, gone on with as a whole, compared at the end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gumbelrl.agents.compare.runs import read_run
from gumbelrl.agents.distributed.parts import train_run
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.progress import format_seconds
from gumbelrl.agents.registry import NO_ESTIMATOR
from gumbelrl.agents.run_config import RunConfig, check_config
from gumbelrl.agents.run_folder import claim_folder, write_whole
from gumbelrl.agents.variations import describe_members

SET = "set.json"


def is_set(folder: Path) -> bool:
    """True where the folder is that of several runs."""
    return (folder / SET).is_file()


class RunSet:
    """Runs in folders below one folder, which also holds what is wanted of them (`set.json`).

    Attributes:
        configs: one a run; `output` is its folder.
        failures: (run, error) of those that an error stopped; the others go on.
    """

    def __init__(self, folder: Path, configs: Sequence[RunConfig]) -> None:
        self.folder, self.configs = folder, list(configs)
        self.failures: list[tuple[RunConfig, RunError]] = []

    @classmethod
    def create(cls, configs: Sequence[RunConfig], folder: Path | None) -> RunSet:
        """Check all runs, then make the set's folder.

        Raises:
            RunError: one of the runs is asked for wrongly, or the folder is taken; nothing has been made.
        """
        for config in configs:
            check_config(config)
        check_environments(configs)
        folder = folder or default_folder(configs)
        width = len(str(len(configs)))
        names = [f"{index:0{width}}_{run_name(config)}" for index, config in enumerate(configs, 1)]
        placed = [replace(config, output=folder / name) for config, name in zip(configs, names, strict=True)]
        claim_folder(folder)
        entries = [{**config.to_json(), "output": name} for config, name in zip(placed, names, strict=True)]
        write_whole(folder / SET, json.dumps({"runs": entries}, indent=1) + "\n")
        return cls(folder, placed)

    @classmethod
    def load(cls, folder: Path) -> RunSet:
        """Return the set in a folder, wherever it has been moved to.

        Raises:
            RunError: `set.json` is damaged.
        """
        try:
            entries: list[dict[str, Any]] = json.loads((folder / SET).read_text(encoding="utf-8"))["runs"]
            configs = [RunConfig.from_json(entry) for entry in entries]
        except RunError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(f"--resume {folder}: {folder / SET} is damaged ({error})") from error
        return cls(folder, [replace(config, output=folder / str(config.output)) for config in configs])

    @property
    def num_finished(self) -> int:
        return sum(self._is_finished(config) for config in self.configs)

    def run(self) -> None:
        """Train what is not finished; an error in one run is told and noted, and the next begins."""
        start = time.perf_counter()
        for index, config in enumerate(self.configs, 1):
            title = f"[{index}/{len(self.configs)}] {describe(config)}"
            if self._is_finished(config):
                print(f"{title}: finished already", flush=True)
                continue
            print(f"{title} · {format_seconds(time.perf_counter() - start)} so far", flush=True)
            try:
                train_run(config)
            except RunError as error:
                self.failures.append((config, error))
                print(f"failed: {error}", flush=True)

    def _is_finished(self, config: RunConfig) -> bool:
        assert config.output is not None
        if not (config.output / "config.json").exists():
            return False
        run = read_run(config.output)
        return run is not None and run.status == "finished"


def check_environments(configs: Sequence[RunConfig]) -> None:
    """Make every environment once, so that a misspelt one is told before anything is trained.

    Raises:
        RunError: an environment does not exist, or its actions are not discrete.
    """
    from gumbelrl.envs import make
    from gumbelrl.policies import ActionLayout

    for env, native in dict.fromkeys((config.env, config.native) for config in configs):
        try:
            made = make(env, num_envs=1, native=native)
            ActionLayout.from_space(made.single_action_space)
            made.close()
        except (TypeError, ValueError) as error:
            raise RunError(f"--env {env}: {error}") from error


def describe(config: RunConfig) -> str:
    """Return what a run is, in a line."""
    words = [config.env, config.agent]
    if (config.policy, config.critic) != NO_ESTIMATOR:
        words += [config.policy, f"{config.critic} critic"]
        words += [f"temperature {config.temperature}"] if config.temperature != RunConfig.temperature else []
    return " · ".join([*words, describe_members(config)])


def run_name(config: RunConfig) -> str:
    """Return a name that a folder can have."""
    words = [config.env, config.agent]
    if (config.policy, config.critic) != NO_ESTIMATOR:
        words += [config.policy, config.critic]
        words += [config.temperature] if config.temperature != RunConfig.temperature else []
    return safe_name("_".join(words))


def safe_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)


def default_folder(configs: Sequence[RunConfig]) -> Path:
    envs = list(dict.fromkeys(config.env for config in configs))
    what = envs[0] if len(envs) == 1 else f"{len(envs)}-environments"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{safe_name(what)}_comparison_{stamp}"
