"""The formulas of `benchmarks/update_cost.py` against what torch counts in the agents themselves."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SIZES = [((64, 64), 256), ((16,), 32), ((8, 24, 16), 64)]


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])


def counted(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize(("hidden", "batch"), SIZES)
def test_operations_of_sac(benchmarks, hidden, batch):
    from throughput import CHOICES, FEATURES, ours
    from update_cost import sac_update

    cost = sac_update(batch=batch, features=FEATURES, choices=CHOICES, hidden=hidden)
    for members in (1, 3):
        learn = ours(batch, members, hidden=hidden, diagnostics_interval=0)
        assert counted(lambda learn=learn: learn(1)) == members * cost.flops


@pytest.mark.parametrize(("hidden", "batch"), SIZES)
def test_operations_of_actor_critic(benchmarks, hidden, batch):
    from members import make_trainer
    from update_cost import actor_critic_update, forward_flops

    trainer = make_trainer((0,), hidden=hidden, num_envs=batch // 8, rollout_steps=32, minibatches=4, epochs=2)
    rollout = trainer.collect()
    cost = actor_critic_update(batch=batch, features=4, choices=2, hidden=hidden)
    # Beside the optimiser steps, the targets of the rollout take a pass of actor and critic.
    targets = 2 * forward_flops(4 * batch, (4, *hidden, 2))
    assert counted(lambda: trainer.agent.update(rollout)) == 8 * cost.flops + targets


def test_bytes_by_hand(benchmarks):
    """One layer of one weight and its bias: 2 parameters, 2 networks of actor-critic, a batch of one."""
    from update_cost import Cost, actor_critic_update

    rows = 1 * (1 + 2 * 1 + 1)
    forward, backward, adam = 2 + 1, 2 * 2 + 1, 7 * 2
    cost = actor_critic_update(batch=1, features=1, choices=1, hidden=())
    assert cost == Cost(flops=2 * (2 + 2), bytes=4 * (rows + 2 * (forward + backward + adam)))


def test_the_floor_is_the_slower_of_computing_and_moving(benchmarks):
    from update_cost import Cost

    cost = Cost(flops=1000, bytes=10)
    assert cost.seconds(flops_per_second=100, bytes_per_second=100) == 10
    assert cost.seconds(flops_per_second=1e6, bytes_per_second=100) == pytest.approx(0.1)


def test_operators_are_counted(benchmarks):
    from roofline import Counter

    with Counter() as counter:
        torch.ones(2).add(1).mul(2)
    assert counter.count == 3
