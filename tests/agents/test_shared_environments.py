"""Environments divided over processes: what several learn is what one process with all environments learns."""

import contextlib
import copy
import json
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from gumbelrl.agents.checkpoint import flatten_state
from gumbelrl.agents.command_line import requested_runs
from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.distributed.shares import own_settings, own_state, whole_state
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment
from gumbelrl.agents.registry import AGENTS

SMALL = ["--num-envs", "8", "--hidden", "8", "--total-steps", "2048", "--seeds", "0", "1", "--track", "off"]
MASKED = "gumbelrl/Pointer-v0"
OFF_POLICY = ("ddpg", "td3", "sac")


class ThreadGroup(Group):
    """Ranks that are threads of one process."""

    def __init__(self, rank, size, slots, barrier):
        self.rank, self.size, self.slots, self.barrier = rank, size, slots, barrier

    def gather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait(timeout=60)
        found = list(self.slots)
        self.barrier.wait(timeout=60)
        return found

    def means(self, *tensors):
        return tuple(torch.stack(each).mean(0) for each in zip(*self.gather(tensors), strict=True))

    def joined(self, *tensors, dim):
        return tuple(torch.cat(each, dim=dim) for each in zip(*self.gather(tensors), strict=True))

    def any(self, flag):
        return any(self.gather(flag))

    def collect(self, value):
        found = self.gather(value)
        return found if self.rank == 0 else None


def on_ranks(size, work):
    """Return what `work(group)` returns on each rank."""
    slots, barrier = [None] * size, threading.Barrier(size)

    def guarded(group):
        try:
            return work(group)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(guarded, [ThreadGroup(rank, size, slots, barrier) for rank in range(size)]))


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def asked(words):
    (config,) = requested_runs([*SMALL, *words])
    return config


def experiment(config, folder, group=None):
    config = replace(config, output=folder)
    run = Experiment(config) if group is None else Experiment(config, group=group)
    if torch.get_default_dtype() == torch.float64:  # environments are of float32
        trainer, features = run.trainer, run.trainer._features
        trainer._features = lambda observation: features(observation).double()
        trainer.observation = trainer.observation.double()
    return run


def same(ours, theirs, *, exact=False):
    ours, theirs = flatten_state(ours), flatten_state(theirs)
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    for name, tensor in theirs[0].items():
        tolerance = 0 if exact else 1e-9
        torch.testing.assert_close(ours[0][name], tensor, rtol=tolerance, atol=tolerance, msg=name, equal_nan=True)


CASES = {
    "actor-critic": ["--minibatches", "1", "--rollout-steps", "16", "--policy", "exact", "--normalise-observations"],
    "moving-mean": [
        "--minibatches",
        "1",
        "--rollout-steps",
        "16",
        "--policy",
        "reinforce",
        "--baseline",
        "moving-mean",
    ],
    "recurrent": ["--minibatches", "1", "--rollout-steps", "16", "--torso", "recurrent", "--policy", "exact"],
    "ppo": ["--minibatches", "1", "--rollout-steps", "16", "--target-kl", "0.0005", "--normalise-observations"],
    "a2c": ["--normalise-observations"],
    "reinforce": ["--rollout-steps", "32"],
    "drop": ["--rollout-steps", "32", "--partial", "drop"],
}
AGENT_OF = {"moving-mean": "actor-critic", "recurrent": "actor-critic", "drop": "reinforce"}


@pytest.mark.parametrize(("case", "size"), [*((case, 2) for case in CASES), ("actor-critic", 4)])
def test_on_policy_parameters_are_those_of_one_process(tmp_path, double, case, size):
    config = asked([*CASES[case], "--agent", AGENT_OF.get(case, case)])

    def train(group=None):
        run = experiment(config, tmp_path / str(size if group else 1), group)
        if case == "moving-mean":  # its estimator samples, in a minibatch whose order differs: the same for all rows
            streams = run.trainer.agent.streams
            streams.exponential = lambda *shape, **_: torch.linspace(0.5, 1.5, shape[-1]).expand(2, *shape)
        for _ in range(4):
            metrics = run.trainer.iterate()
        return run.trainer, metrics

    alone, told = train()
    ranks = on_ranks(size, train)
    for trainer, metrics in ranks:
        same(trainer.agent.state_dict(), alone.agent.state_dict())
        same(trainer.statistics.state_dict(), alone.statistics.state_dict())
        same(trainer.agent.state_dict(), ranks[0][0].agent.state_dict(), exact=True)
        assert trainer.step == alone.step
        torch.testing.assert_close(metrics["gradient/norm"], told["gradient/norm"])
    torch.testing.assert_close(torch.cat([trainer.observation for trainer, _ in ranks], dim=1), alone.observation)


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("agent", "env"), [*((agent, "CartPole-v1") for agent in OFF_POLICY), ("sac", MASKED)])
def test_off_policy_parameters_are_those_of_one_process(tmp_path, double, agent, size, env):
    """On the whole replay, since which transitions a process draws is its own affair."""
    words = ["--agent", agent, "--policy", "exact", "--batch-size", "64", "--replay-capacity", "64"]
    words += ["--learning-starts", "80", "--updates-per-iteration", "1", "--env", env]
    config = asked([*words, "--normalise-observations"])

    def train(group=None):
        run = experiment(config, tmp_path / str(size if group else 1), group)
        replay = run.trainer.agent.replay

        def everything(count, *, generator):
            assert count == replay.num_rows
            rows = torch.arange(count).repeat(2) + count * torch.arange(2).repeat_interleave(count)
            return replay._batch(rows, 2)

        replay.sample = everything
        for _ in range(14):
            run.trainer.iterate()
        return run.trainer, whole_state(run.trainer.state_dict(), group or Group())

    alone, whole = train()
    ranks = on_ranks(size, train)
    names = ("parameters", "optimizer", "log_entropy_coefficient", "perception", "streams", "num_steps_seen")
    for trainer, _ in ranks:
        ours, theirs = trainer.agent.state_dict(), alone.agent.state_dict()
        same({name: ours[name] for name in names}, {name: theirs[name] for name in names})
    assert alone.agent.num_updates > 4
    same(ranks[0][1], whole)


def trained(config, folder, *, size, iterations, state=None):
    """Return the state of all environments after some iterations by `size` processes, going on from another."""

    def train(group):
        run = experiment(config, folder, group if size > 1 else None)
        if state is not None:
            run.trainer.load_state_dict(own_state(copy.deepcopy(state), group))
        for _ in range(iterations):
            run.trainer.iterate()
        return copy.deepcopy(whole_state(run.trainer.state_dict(), group))

    return on_ranks(size, train)[0]


@pytest.mark.parametrize(
    "words",
    [
        ["--agent", "sac", "--env", MASKED],
        ["--agent", "actor-critic", "--env", "Blackjack-v1", "--no-native"],
        ["--agent", "actor-critic", "--torso", "recurrent", "--minibatches", "2", "--normalise-observations"],
    ],
    ids=["replay", "gymnasium", "memory"],
)
def test_a_state_is_gone_on_with_exactly_and_by_any_number(tmp_path, words):
    words = [*words, "--learning-starts", "32", "--batch-size", "16"] if "sac" in words else words
    config = asked([*words, "--rollout-steps", "4"])
    half = trained(config, tmp_path / "half", size=2, iterations=6)
    straight = trained(config, tmp_path / "straight", size=2, iterations=9)
    resumed = trained(config, tmp_path / "resumed", size=2, iterations=3, state=half)
    same(resumed, straight, exact=True)
    for size in (1, 4):  # divided otherwise it is the same state
        again = trained(config, tmp_path / str(size), size=size, iterations=0, state=half)
        same(again, half, exact=True)


def test_processes_whose_networks_differ_do_not_save(tmp_path):
    config = asked(["--rollout-steps", "4"])

    def drift(group):
        run = experiment(config, tmp_path, group)
        with torch.no_grad():
            run.trainer.agent.flat += 1e-7 * group.rank
        return whole_state(run.trainer.state_dict(), group)

    with pytest.raises(RunError, match="drifted apart"):
        on_ranks(2, drift)


@pytest.mark.parametrize(
    ("agent", "settings", "said"),
    [
        ("ppo", {"num_envs": 9}, "num_envs = 9 must be divisible by 2, such as --num-envs 8"),
        ("sac", {"batch_size": 33}, "batch_size = 33 must be divisible by 2"),
        ("sac", {"replay_capacity": 1002}, "replay_capacity = 1002 must be divisible by num_envs = 16"),
        ("ppo", {"num_envs": 2, "rollout_steps": 2, "minibatches": 4}, "num_envs x rollout_steps of each, 2, must be"),
        ("actor-critic", {"num_envs": 4, "minibatches": 4, "torso": "recurrent"}, "num_envs of each, 2, must be"),
    ],
)
def test_what_cannot_be_divided_is_refused(agent, settings, said):
    config = AGENTS[agent].config(**settings)
    assert own_settings(config, 1) is config
    with pytest.raises(RunError, match=re.escape(said)):
        own_settings(config, 2)


def test_compiled_steps_are_refused(tmp_path):
    config = asked(["--compile", "on"])
    with pytest.raises(RunError, match="--compile on: gradients are averaged between processes"):
        on_ranks(2, lambda group: experiment(config, tmp_path, group))
    assert not list(tmp_path.iterdir())


def test_stop_at_return_is_decided_alike(tmp_path, monkeypatch):
    """On statistics of all environments, which every process has."""
    no_signals = lambda: contextlib.nullcontext([])  # noqa: E731 (they are for main threads)
    monkeypatch.setattr("gumbelrl.agents.experiment.stop_on_interrupt", no_signals)
    config = replace(asked(["--rollout-steps", "64"]), stop_at_return=5.0, evaluation_episodes=1, total_steps=8192)
    steps = on_ranks(2, lambda group: run_to_the_end(config, tmp_path / "two", group))
    assert steps[0] == steps[1] < config.total_steps
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows[:2]] == [0, 1]
    assert rows[-1]["train/return"] >= 5.0
    assert rows[-1]["train/episodes"] >= 100


def run_to_the_end(config, folder, group):
    run = experiment(config, folder, group)
    if group.rank == 0:
        run.make_folder()
    results = run.run()
    assert bool(results) == (group.rank == 0)
    return run.trainer.step
