"""Which peers are run, and with which settings of ours each is compared: equal networks and equal work per step.

Equal are: hidden layers and activation, batch size, optimiser steps per environment step, seeds. Where a peer has one
environment, ours has several and as many updates for as many steps: that is what environments in one tensor are for.
"""

from __future__ import annotations

from dataclasses import dataclass


def words(line: str) -> list[str]:
    """Return the words of a command line without quotes in it."""
    return line.split()


PPO = ["--agent", "ppo", "--reward-scale", "1.0"]
ZOO_PPO = [
    *PPO,
    *words("--num-envs 8 --rollout-steps 32 --epochs 20 --minibatches 1 --discount 0.98 --trace 0.8"),
    *words("--total-steps 100000"),
]
REJAX_PPO = [
    *PPO,
    *words("--num-envs 5 --rollout-steps 100 --epochs 5 --minibatches 5 --learning-rate 0.00075 --no-anneal"),
    *words("--no-anneal-clip --entropy-coefficient 0.01 --total-steps 100000"),
]
PUREJAXRL_PPO = [
    *PPO,
    *words("--num-envs 4 --rollout-steps 128 --epochs 4 --minibatches 4 --learning-rate 0.00025 --no-anneal"),
    *words("--no-anneal-clip --entropy-coefficient 0.01 --total-steps 500000"),
]
# As much data and as many updates, from more environments at a time, on both sides.
WIDE_PUREJAXRL_PPO = [*PUREJAXRL_PPO, *words("--num-envs 64 --rollout-steps 8")]
# As many updates for each step, from larger minibatches.
LARGE_PUREJAXRL_PPO = [*PUREJAXRL_PPO, *words("--num-envs 64 --rollout-steps 32 --total-steps 1000000")]
WIDE_PPO = [
    *PPO,
    *words("--num-envs 64 --rollout-steps 32 --epochs 4 --minibatches 4 --discount 0.98 --trace 0.8"),
    *words("--total-steps 1000000"),
]
ZOO_A2C = [
    *words("--agent a2c --num-envs 8 --rollout-steps 5 --optimizer rmsprop --learning-rate 0.0007 --no-anneal"),
    *words("--reward-scale 1.0 --no-normalise-advantages --total-steps 500000"),
]
PLAIN = words("--activation relu --no-layer-norm --return-steps 1 --diagnostics-interval 0 --no-anneal")
# A peer's DQN has one network; our DDPG has a critic of the same form and an actor beside it.
ZOO_DQN = [
    *words("--agent ddpg --policy gumbel --hidden 256 256 --batch-size 64 --num-envs 16 --rollout-steps 16"),
    *words("--updates-per-iteration 128 --learning-starts 1000 --replay-capacity 100000 --total-steps 50000"),
    *PLAIN,
]
TIANSHOU_SAC = [
    *words("--agent sac --policy gumbel --hidden 64 64 --batch-size 64 --num-envs 10 --rollout-steps 1"),
    *words("--updates-per-iteration 1 --learning-starts 0 --replay-capacity 20000 --discount 0.95"),
    *words("--total-steps 50000"),
    *PLAIN,
    *words("--return-steps 3"),
]
TORCHRL_SAC = [
    *words("--agent sac --policy gumbel --hidden 256 256 --batch-size 256 --num-envs 10 --rollout-steps 50"),
    *words("--updates-per-iteration 500 --learning-starts 1000 --replay-capacity 25000 --total-steps 25000"),
    *PLAIN,
]


@dataclass(frozen=True)
class Case:
    """A peer in one algorithm.

    Attributes:
        title: what a table calls it.
        environment: of which requirements file.
        script: in `peers/`, which runs it.
        case: of the script.
        ours: words of train.py that make ours do the same work.
        settings: where the peer's settings come from, in a few words.
        members: seeds side by side on both sides.
        limit: seconds of training that are enough.
        warm_up: steps before throughput is measured.
    """

    title: str
    environment: str
    script: str
    case: str
    ours: list[str]
    settings: str
    members: int = 1
    limit: float = 5.0
    warm_up: int = 2000


CASES: dict[str, Case] = {
    "sb3-ppo": Case(
        "SB3 PPO",
        "stable_baselines3",
        "run_stable_baselines3.py",
        "ppo",
        ZOO_PPO,
        "RL-Zoo: 8 envs × 32, batch 256, 20 epochs",
        limit=25.0,
    ),
    "sb3-ppo-wide": Case(
        "SB3 PPO, wide",
        "stable_baselines3",
        "run_stable_baselines3.py",
        "ppo-wide",
        WIDE_PPO,
        "64 envs × 32, 4 epochs × 4 minibatches, otherwise RL-Zoo",
    ),
    "sb3-a2c": Case(
        "SB3 A2C", "stable_baselines3", "run_stable_baselines3.py", "a2c", ZOO_A2C, "RL-Zoo: 8 envs × 5, RMSprop"
    ),
    "sb3-dqn": Case(
        "SB3 DQN",
        "stable_baselines3",
        "run_stable_baselines3.py",
        "dqn",
        ZOO_DQN,
        "RL-Zoo: 2×256, batch 64, an update for 2 steps",
    ),
    "sb3-contrib-qrdqn": Case(
        "sb3-contrib QR-DQN",
        "stable_baselines3",
        "run_stable_baselines3.py",
        "qrdqn",
        ZOO_DQN,
        "RL-Zoo: 2×256, batch 64, an update for 2 steps, 10 quantiles",
    ),
    "sbx-ppo": Case(
        "SBX PPO", "sbx", "run_sbx.py", "ppo", ZOO_PPO, "RL-Zoo: 8 envs × 32, batch 256, 20 epochs", limit=25.0
    ),
    "sbx-dqn": Case("SBX DQN", "sbx", "run_sbx.py", "dqn", ZOO_DQN, "RL-Zoo: 2×256, batch 64, an update for 2 steps"),
    "rejax-ppo": Case(
        "rejax PPO",
        "rejax",
        "run_rejax.py",
        "ppo",
        REJAX_PPO,
        "its CartPole settings: 5 envs × 100, 5 epochs × 5 minibatches",
        warm_up=2500,
    ),
    "rejax-purejaxrl": Case(
        "rejax PPO as PureJaxRL",
        "rejax",
        "run_rejax.py",
        "purejaxrl",
        PUREJAXRL_PPO,
        "PureJaxRL: 4 envs × 128, 4 epochs × 4 minibatches",
        warm_up=2500,
    ),
    "rejax-purejaxrl-wide": Case(
        "rejax PPO as PureJaxRL, wide",
        "rejax",
        "run_rejax.py",
        "purejaxrl-wide",
        WIDE_PUREJAXRL_PPO,
        "64 envs × 8, otherwise PureJaxRL",
        warm_up=2500,
    ),
    "rejax-purejaxrl-large": Case(
        "rejax PPO as PureJaxRL, large",
        "rejax",
        "run_rejax.py",
        "purejaxrl-large",
        LARGE_PUREJAXRL_PPO,
        "64 envs × 32, otherwise PureJaxRL",
        warm_up=2500,
    ),
    "rejax-ppo-8": Case(
        "rejax PPO, 8 seeds",
        "rejax",
        "run_rejax.py",
        "ppo",
        REJAX_PPO,
        "its CartPole settings, 8 seeds by vmap",
        members=8,
        warm_up=2500,
    ),
    "tianshou-sac": Case(
        "Tianshou DiscreteSAC",
        "tianshou",
        "run_tianshou.py",
        "sac",
        TIANSHOU_SAC,
        "its own test: 2×64, batch 64, 10 envs, an update for 10 steps",
        limit=8.0,
    ),
    "torchrl-sac": Case(
        "TorchRL DiscreteSAC",
        "torchrl",
        "run_torchrl.py",
        "sac",
        TORCHRL_SAC,
        "its own example: 2×256, batch 256, an update a step",
        limit=8.0,
        warm_up=1000,
    ),
}
# Ours as one would run it, for the time to solve the task: what a table calls it, and words of train.py.
OURS: dict[str, tuple[str, list[str]]] = {
    "ours-defaults": ("`actor-critic`, `gumbel`, defaults", words("--policy gumbel")),
    "ours-preset": ("`--preset cartpole-fast`", words("--preset cartpole-fast")),
}
