"""Updates a second of `sac` against stable-baselines3's SAC, on one CPU thread, networks and batches of equal size.

    python benchmarks/throughput.py        # about three minutes; writes benchmarks/results/throughput.json

Theirs learns a Box task with as many action numbers as ours has choices: two critics and an actor of two hidden layers
of 64 units, ReLU, batch 256 from a full replay. Ours has the same layers, without and with what our defaults add to
them (layer normalisation, SiLU), alone and with ten members, eager and compiled. An update is: draw the batch, all
losses, all optimiser steps, all slow copies; no environment. The sides take turns; ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from provenance import provenance

from gumbelrl.agents import SAC, SACConfig
from gumbelrl.agents.compiled_training import compile_learning
from gumbelrl.agents.host_memory import keep_freed_memory
from gumbelrl.agents.rollout import Transition
from gumbelrl.policies import ActionLayout

RESULTS = Path(__file__).parent / "results" / "throughput.json"
FEATURES, CHOICES, HIDDEN, HELD = 4, 2, (64, 64), 10_000
PLAIN = {"activation": "relu", "layer_norm": False}


class Nothing(gymnasium.Env):
    """A Box task of the given size in which nothing happens."""

    observation_space = spaces.Box(-1.0, 1.0, (FEATURES,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (CHOICES,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        return self.observation_space.sample(), 1.0, bool(self.np_random.random() < 0.01), False, {}


def theirs(batch: int) -> Callable[[int], None]:
    """Return what makes a number of updates of stable-baselines3's SAC."""
    from stable_baselines3 import SAC as TheirSAC
    from stable_baselines3.common.logger import Logger

    model = TheirSAC(
        "MlpPolicy",
        Nothing(),
        batch_size=batch,
        buffer_size=HELD,
        learning_starts=HELD,
        policy_kwargs={"net_arch": list(HIDDEN)},
        seed=0,
        device="cpu",
    )
    model.learn(HELD)  # fills the replay, at random
    model.set_logger(Logger(folder=None, output_formats=[]))
    return lambda count: model.train(gradient_steps=count, batch_size=batch)


def ours(batch: int, members: int, *, compiled: bool = False, **settings: Any) -> Callable[[int], None]:
    """Return what makes a number of updates of all members of our SAC, compiled or not."""
    given = {"replay_capacity": HELD, "hidden": HIDDEN, "return_steps": 1, "updates_per_iteration": 1, **settings}
    config = SACConfig(batch_size=batch, **given)
    layout = ActionLayout.from_space(spaces.Discrete(CHOICES))
    agent = SAC(config, layout=layout, num_features=FEATURES, seeds=tuple(range(members)))
    generator = torch.Generator().manual_seed(0)
    shape = (100, members, HELD // 100)
    action = torch.eye(CHOICES)[torch.randint(CHOICES, shape, generator=generator)].unsqueeze(-2)
    rollout = Transition(
        observation=torch.randn(*shape, FEATURES, generator=generator),
        logits=torch.zeros_like(action),
        action=action,
        reward=torch.ones(shape),
        terminated=torch.rand(shape, generator=generator) < 0.01,
        truncated=torch.zeros(shape, dtype=torch.bool),
        final_observation=torch.randn(*shape, FEATURES, generator=generator),
    )
    agent.replay.add(rollout)
    if compiled:
        compile_learning(agent)
        agent.set_progress(0.0, temperature=1.0)

    def learn(count: int) -> None:
        for _ in range(count):
            agent.learn_from_replay()

    return learn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--members", type=int, default=10)
    parser.add_argument("--updates", type=int, default=200, help="of each side, a turn")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--dry", action="store_true", help="write no results")
    options = parser.parse_args()

    torch.set_num_threads(1)
    keep_freed_memory()  # as a `Trainer` does; in one process with theirs, which has it too
    sides = {"stable-baselines3": (theirs(options.batch), 1)}
    for compiled in (False, True):
        for members in (1, options.members):
            for name, layers in (("plain", PLAIN), ("default", {})):
                words = [name, *(["compiled"] if compiled else []), *([f"{members} members"] if members > 1 else [])]
                sides[", ".join(words)] = (ours(options.batch, members, compiled=compiled, **layers), members)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(options.repeats + 1):
        for name, (learn, _) in sides.items():
            start = time.perf_counter()
            learn(options.updates)
            if repeat:  # the first turn is for warming up
                seconds[name].append(time.perf_counter() - start)
    rates = {name: members * options.updates / statistics.median(seconds[name]) for name, (_, members) in sides.items()}
    print(f"{'':<30} updates/s, all members   of theirs")
    for name, rate in rates.items():
        print(f"{name:<30} {rate:>22,.0f} {rate / rates['stable-baselines3']:>11.1f}x")
    if not options.dry:
        results = {**provenance(), **vars(options), "seconds": seconds, "updates_per_second": rates}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
