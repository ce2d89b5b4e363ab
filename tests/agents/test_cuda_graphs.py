"""Iterations on memory that stays where it is give what eager ones give; on a GPU, as CUDA graphs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gumbelrl.agents.checkpoint import CheckpointStore, flatten_state, unflatten_state
from gumbelrl.agents.command_line import main
from gumbelrl.agents.cuda_graphs import CapturedWork, RepeatedCalls, capture, captures, obstacle
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.evaluation import evaluate
from gumbelrl.agents.held_state import tensors_of
from gumbelrl.agents.member_settings import vary
from gumbelrl.agents.perception.observations import num_features
from gumbelrl.agents.precision import set_precision
from gumbelrl.agents.progress_tensors import numbers_on_the_device
from gumbelrl.agents.registry import AGENTS
from gumbelrl.agents.training import Trainer
from gumbelrl.envs import make
from gumbelrl.envs.registry import ENVIRONMENTS
from gumbelrl.policies import ESTIMATORS, ActionLayout, parse_temperature

SEEDS = (3, 4)
SMALL: dict[str, Any] = {"num_envs": 4, "rollout_steps": 4, "hidden": (8,)}
OFF_POLICY = {"learning_starts": 50, "batch_size": 8, "updates_per_iteration": 3, "diagnostics_interval": 4}
OF_AGENT: dict[str, dict[str, Any]] = {
    "actor-critic": {"minibatches": 2, "epochs": 2, "diagnostics_interval": 4, "anneal": True},
    "ppo": {"minibatches": 2, "epochs": 2, "anneal_clip": True},
    "sac": OFF_POLICY | {"replay_capacity": 100},  # which is full after some iterations
    "td3": OFF_POLICY | {"epsilon": 0.5},
    "ddpg": OFF_POLICY | {"return_steps": 1},
}
MASKED = "gumbelrl/MultiButton-v0"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def trainer_of(
    agent: str,
    *,
    env_id: str = "CartPole-v1",
    estimator: str = "gumbel",
    critic: str = "linear",
    temperature: str = "linear:1.0:0.5",
    device: str = "cpu",
    seeds: tuple[int, ...] = SEEDS,
    native: bool = True,
    of_members: dict[str, list[float]] | None = None,
    **settings: Any,
) -> Trainer:
    config = replace(AGENTS[agent].config(), **(SMALL | OF_AGENT.get(agent, {}) | settings))
    config = vary(config, of_members or {}, device=device)
    env = make(env_id, num_envs=len(seeds) * config.num_envs, device=device, compile=False, native=native)
    schedule = parse_temperature(temperature)
    made = AGENTS[agent].agent(
        config,
        layout=ActionLayout.from_space(env.single_action_space, device=device),
        num_features=num_features(env.single_observation_space),
        seeds=seeds,
        estimator=estimator,
        critic=critic,
        observation_space=env.single_observation_space,
        temperature=schedule,
        device=device,
    )
    return Trainer(made, env, seeds=seeds, total_steps=1000, temperature=schedule.value)


def pair_of(agent: str, **options: Any) -> tuple[Trainer, Trainer]:
    """Return an eager loop and a captured one; numbers of both are in tensors, which round otherwise than floats."""
    eager, captured = (trainer_of(agent, **options) for _ in range(2))
    numbers_on_the_device(eager.agent)
    capture(captured, backend=RepeatedCalls() if captured.env.device.type == "cpu" else None)
    return eager, captured


def iterate(count: int, *trainers: Trainer) -> None:
    for _ in range(count):
        for trainer in trainers:
            trainer.iterate()


def check_equal(eager: Trainer, captured: Trainer, iterations: int) -> None:
    for _ in range(iterations):
        expected, found = eager.iterate(), captured.iterate()
        assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert_close(captured.state_dict(), eager.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("agent", list(AGENTS))
def test_captured_equals_eager(agent: str) -> None:
    eager, captured = pair_of(agent)
    check_equal(eager, captured, 14)
    assert captured.work.recorded


@pytest.mark.parametrize(
    ("agent", "options"),
    [
        ("actor-critic", {"env_id": MASKED, "estimator": "gumbel-soft", "critic": "interpolated"}),
        ("actor-critic", {"env_id": "gumbelrl/Pointer-v0", "torso": "pointer", "normalise_observations": True}),
        ("actor-critic", {"env_id": "gumbelrl/Memory-v0", "torso": "recurrent", "normalise_observations": True}),
        ("actor-critic", {"estimator": "reinforce", "baseline": "moving-mean"}),
        ("ppo", {"env_id": MASKED, "normalise_observations": True, "target_kl": 1e-4}),
        ("sac", {"env_id": "gumbelrl/MinAtar-Breakout-v1", "normalise_observations": True}),
        ("sac", {"env_id": MASKED, "critic": "multilinear"}),
        ("sac", {"env_id": "Taxi-v4", "temperature": "learned:1.0"}),
        ("td3", {"policy_delay": 2, "rollout_steps": 1, "return_steps": 4}),  # what is pending grows at first
        ("reinforce", {"partial": "drop"}),
    ],
)
def test_captured_equals_eager_in_every_form(agent: str, options: dict[str, Any]) -> None:
    eager, captured = pair_of(agent, **options)
    check_equal(eager, captured, {"td3": 24, "sac": 11}.get(agent, 7))
    assert captured.work.recorded


def test_settings_of_members_follow_the_progress() -> None:
    of_members = {"learning_rate": [1e-3, 1e-2], "entropy_coefficient": [0.01, 0.1]}
    check_equal(*pair_of("actor-critic", of_members=of_members), 8)


def test_each_kind_of_iteration_has_its_graph() -> None:
    """Three updates an iteration, and the actor due in every second: which ones depends on how many there were."""
    eager, captured = pair_of("td3")
    check_equal(eager, captured, 14)
    assert set(captured.work.recorded) == {(False, True, False), (True, False, True)}
    assert captured.agent.num_updates == eager.agent.num_updates > 0
    assert captured.agent.num_steps_seen == eager.agent.num_steps_seen
    assert captured.agent.replay.num_rows == eager.agent.replay.num_rows == int(captured.agent.replay.size)


@pytest.mark.parametrize("agent", ["actor-critic", "sac"])
def test_nothing_moves_in_memory(agent: str) -> None:
    captured = pair_of(agent, env_id=MASKED)[1]
    while not captured.work.recorded:
        captured.iterate()
    places = tensors_of(captured, leave_out=[captured.work])
    before = {place.path: place.value.data_ptr() for place in places}
    first = captured.iterate()
    for _ in range(5):
        metrics = captured.iterate()
    after = {place.path: place.value.data_ptr() for place in tensors_of(captured, leave_out=[captured.work])}
    assert before == after
    assert all(metrics[name] is first[name] for name in metrics if not name.startswith("gradient/"))


@pytest.mark.parametrize("agent", ["actor-critic", "td3"])
def test_goes_on_from_a_checkpoint(agent: str) -> None:
    eager, captured = pair_of(agent)
    check_equal(eager, captured, 13)
    tensors, rest = flatten_state(captured.state_dict())
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    check_equal(eager, captured, 5)
    for later in (captured, pair_of(agent)[1]):  # one with graphs of the tensors that it had, one without
        later.load_state_dict(unflatten_state({name: tensor.clone() for name, tensor in saved.items()}, rest))
        assert not later.work.recorded
        iterate(5, later)
        assert_close(later.state_dict(), eager.state_dict(), rtol=0, atol=0)


def test_tensors_that_change_places_are_not_mixed_up() -> None:
    """What is assigned to one place may be what another held."""
    ends = []
    for trainer in pair_of("a2c"):
        trainer.agent.extra = {"one": torch.zeros(2), "other": torch.ones(2)}
        update = trainer.agent.update

        def swapped(rollout: Any, agent: Any = trainer.agent, update: Any = update) -> Any:
            agent.extra = {"one": agent.extra["other"], "other": agent.extra["one"] + 2.0}
            return update(rollout)

        trainer.agent.update = swapped
        iterate(11, trainer)
        ends.append(trainer.agent.extra)
    assert torch.equal(ends[0]["one"], ends[1]["one"])
    assert torch.equal(ends[0]["other"], ends[1]["other"])


def test_evaluation_between_changes_nothing() -> None:
    eager, captured = pair_of("sac")
    for _ in range(3):
        check_equal(eager, captured, 5)
        returns = [
            evaluate(
                trainer.agent,
                lambda count: make("CartPole-v1", num_envs=count),
                seeds=SEEDS,
                episodes=2,
                greedy=False,
            )
            for trainer in (eager, captured)
        ]
        assert torch.equal(*returns)


def test_a_run_with_recorded_iterations_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--agent", "ppo", "--num-envs", "4", "--rollout-steps", "8", "--hidden", "8", "--evaluation-episodes", "2"]
    words += ["--total-steps", "800", "--log-interval", "96", "--evaluation-interval", "320", "--track", "off"]
    words += ["--checkpoint-interval", "160", "--device", "cpu", "--compile", "off"]
    assert main([*words, "--output", str(tmp_path / "eager")]) == 0
    made: list[CapturedWork] = []

    def captures(mode: str, trainer: Trainer) -> CapturedWork:
        made.append(capture(trainer, backend=RepeatedCalls()))
        return made[-1]

    monkeypatch.setattr("gumbelrl.agents.experiment.captures", captures)
    assert main([*words, "--output", str(tmp_path / "captured")]) == 0
    assert made[0].trainer.finished
    assert not made[0].recorded  # given back before the evaluation
    runs = [tmp_path / "eager", tmp_path / "captured"]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    for row in [*rows[0], *rows[1]]:
        for name in [name for name in row if name.startswith("time/")]:
            del row[name]
    assert rows[0] == rows[1]
    ends = [CheckpointStore(run / "checkpoints").latest().tensors for run in runs]
    assert_close(ends[1], ends[0], rtol=0, atol=0)


# What goes wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda step: step._replace(reward=_one(step.reward, torch.nan)), "reward is not finite"),
        (lambda step: step._replace(observation=_one(step.observation, torch.inf)), "observation is not finite"),
        (lambda step: step._replace(final_observation=_one(step.final_observation, torch.nan)), "observation is not"),
    ],
)
def test_faults_are_told_as_they_are_eagerly(spoil: Any, words: str) -> None:
    said = []
    for trainer in pair_of("a2c"):
        step, count = trainer.env.step, iter(range(1000))
        trainer.env.step = lambda action, step=step, count=count: (spoil if next(count) == 26 else _as_it_is)(
            step(action)
        )
        if not said:
            with pytest.raises(RunError, match=words) as error:
                iterate(9, trainer)
        else:
            iterate(9, trainer)
            with pytest.raises(RunError, match=words) as error:
                trainer.raise_faults()
        said.append(str(error.value))
    assert said[0] == said[1]
    assert "in environment 1 of seed 4, at step " in said[0]


def _one(values: torch.Tensor, number: float) -> torch.Tensor:
    return values.index_fill(0, torch.tensor([5]), number)


def _as_it_is(step: Any) -> Any:
    return step


def test_a_mask_that_allows_nothing_is_told_as_it_is_eagerly() -> None:
    said = []
    for trainer in pair_of("ppo", env_id=MASKED):
        mask, count = trainer.env.action_mask, iter(range(1000))

        def spoiled(state: Any, mask: Any = mask, count: Any = count) -> torch.Tensor:
            found = mask(state)
            return found.index_fill(0, torch.tensor([6]), False) if next(count) == 40 else found

        trainer.env.action_mask = spoiled
        if said:
            iterate(9, trainer)
        with pytest.raises(RunError, match="no action is allowed in environment 2 of seed 4") as error:
            trainer.raise_faults() if said else iterate(9, trainer)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_number_on_the_host_that_changes_is_refused() -> None:
    """A graph would keep the one that it was recorded with."""

    def count(trainer: Trainer) -> None:
        update = trainer.agent.update

        def counted(rollout: Any) -> Any:
            trainer.agent.updates_made = getattr(trainer.agent, "updates_made", 0) + 1
            return update(rollout)

        trainer.agent.update = counted

    eager, captured = pair_of("a2c")
    count(captured)
    with pytest.raises(RunError, match=r"cannot be recorded: agent\.updates_made changes from one to the next"):
        iterate(9, captured)
    lenient = trainer_of("a2c")
    work = capture(lenient, backend=RepeatedCalls(), or_eager=True)
    count(lenient)
    with pytest.warns(UserWarning, match=r"updates_made changes .* training goes on without"):
        iterate(9, eager, lenient)
    assert work.eager_only
    assert_close(lenient.state_dict(), eager.state_dict(), rtol=0, atol=0)


def test_says_what_cannot_be_recorded() -> None:
    assert obstacle(trainer_of("ppo", target_kl=0.1)) is None
    adapted = trainer_of("ppo", native=False)
    assert "GymnasiumEnv steps on the host" in (obstacle(adapted) or "")
    assert captures("on", trainer_of("ppo")) is None  # there is nothing to do on a CPU


# What a graph could not hold ----------------------------------------------------------------------------------------


class FromTheHost(TorchFunctionMode):
    """Tensors of numbers on the host, or copied to or from it, are an AssertionError once the work is `recorded`."""

    recorded = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if self.recorded:
            made = name in ("tensor", "as_tensor", "asarray", "from_numpy") and not isinstance(args[0], torch.Tensor)
            moved = name in ("item", "tolist", "cpu", "cuda", "numpy", "__bool__", "__float__", "__int__", "__index__")
            listed = name in ("__getitem__", "__setitem__") and _holds_list(args[1])
            copies = made or moved or listed
            assert not copies, f"an iteration calls {name} on {args[:1]}"
        elif name in ("tolist", "cpu") and args[0].device.type == "meta":  # as an environment is made
            some = torch.zeros(args[0].shape, dtype=args[0].dtype)
            return some.tolist() if name == "tolist" else some
        return func(*args, **(kwargs or {}))


def _holds_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(isinstance(each, list) for each in index))


class OnTheDevice(TorchDispatchMode):
    """Work that reads the device, uses a tensor of another, or draws from torch's generators is an AssertionError.

    Tensors are on `meta`, where they have shapes and no data: what reads them while a loop is made gets a number.
    """

    recorded = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].device.type == "meta":
            assert not self.recorded, "an iteration reads a tensor on the host"
            return torch.ones((), dtype=args[0].dtype).item()
        found = func(*args, **(kwargs or {}))
        if self.recorded:
            drawn = torch.Tag.nondeterministic_seeded in func.tags
            assert not drawn, f"an iteration draws from torch's generator by {func.name()}"
            tensors = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, torch.Tensor)]
            elsewhere = {each.device.type for each in tensors} - {"meta"}
            assert not elsewhere, f"an iteration works on {elsewhere} by {func.name()}"
        return found


def check_stays_on_the_device(agent: str, **options: Any) -> None:
    """Check that an iteration that learns does nothing that a CUDA stream would wait for, or a graph could not hold."""
    starts = {"learning_starts": 0, "num_envs": 2} if agent in ("sac", "td3", "ddpg") else {}
    with OnTheDevice() as device, FromTheHost() as host:
        trainer = trainer_of(agent, device="meta", **(starts | options))
        capture(trainer, backend=RepeatedCalls()).undo()
        trainer.agent.optimizer.written_out = True  # torch's kernels are for devices with data
        iterate(2, trainer)
        device.recorded = host.recorded = True
        trainer.work()


@pytest.mark.parametrize("env_id", list(ENVIRONMENTS))
def test_no_environment_waits_for_the_device(env_id: str) -> None:
    check_stays_on_the_device("sac", env_id=env_id, rollout_steps=2, return_steps=2, updates_per_iteration=1)


@pytest.mark.parametrize("agent", list(AGENTS))
def test_no_agent_waits_for_the_device(agent: str) -> None:
    check_stays_on_the_device(agent, normalise_observations=True)


@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_no_estimator_waits_for_the_device(estimator: str) -> None:
    settings = {"minibatches": 1, "epochs": 1, "rollout_steps": 2}
    check_stays_on_the_device("actor-critic", env_id=MASKED, estimator=estimator, critic="joint", **settings)


@pytest.mark.parametrize(
    "options",
    [
        {"env_id": "gumbelrl/Pointer-v0", "torso": "pointer"},
        {"env_id": "gumbelrl/Memory-v0", "torso": "recurrent"},
        {"env_id": "gumbelrl/MinAtar-Breakout-v1", "torso": "conv"},
        {"env_id": MASKED, "critic": "multilinear", "temperature": "state:1.0"},
        {"env_id": MASKED, "critic": "interpolated", "estimator": "reinforce", "baseline": "moving-mean"},
        {"of_members": {"learning_rate": [1e-3, 1e-2], "kl_bound": [0.1, 0.2]}},
    ],
)
def test_no_form_waits_for_the_device(options: dict[str, Any]) -> None:
    check_stays_on_the_device("actor-critic", **options)


def test_waiting_for_the_device_is_seen() -> None:
    for wait in (torch.Tensor.item, lambda x: torch.tensor([1.0], device=x.device), torch.rand_like, torch.Tensor.cpu):
        with OnTheDevice() as device, FromTheHost() as host:
            number = torch.zeros((), device="meta")
            device.recorded = host.recorded = True
            with pytest.raises(AssertionError, match="an iteration"):
                wait(number)


# On a GPU -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Have PyTorch refuse every operation that waits for the device, but only where the test asks for it."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("agent", list(AGENTS))
def test_a_graph_gives_what_eager_iterations_give(agent: str) -> None:
    eager, captured = pair_of(agent, device="cuda")
    iterate(14, eager, captured)
    assert captured.work.recorded
    assert_close(captured.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("env_id", ["gumbelrl/MinAtar-Seaquest-v1", "Taxi-v4", MASKED, "gumbelrl/Pointer-v0"])
def test_a_graph_holds_other_environments(env_id: str) -> None:
    eager, captured = pair_of("sac", env_id=env_id, device="cuda")
    iterate(14, eager, captured)
    assert captured.work.recorded
    assert_close(captured.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("agent", list(AGENTS))
@pytest.mark.usefixtures("no_waiting")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_no_iteration_waits_for_the_gpu(agent: str, captured: bool) -> None:
    trainer = trainer_of(agent, device="cuda")
    if captured:
        capture(trainer)
    iterate(12, trainer)
    torch.cuda.set_sync_debug_mode("error")
    iterate(5, trainer)
    torch.cuda.set_sync_debug_mode("default")
    trainer.raise_faults()
    assert int(trainer.statistics.count.sum()) > 0


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("estimator", list(ESTIMATORS))
def test_a_graph_holds_every_estimator(estimator: str) -> None:
    critic = "linear" if estimator == "gumbel" else "joint"
    options = {"env_id": MASKED, "estimator": estimator, "critic": critic, "device": "cuda"}
    eager, captured = pair_of("actor-critic", **options)
    iterate(6, eager, captured)
    assert captured.work.recorded
    assert_close(captured.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
def test_graphs_are_recorded_anew_after_a_checkpoint() -> None:
    captured = pair_of("td3", device="cuda")[1]
    iterate(13, captured)
    tensors, rest = flatten_state(captured.state_dict())
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    iterate(9, captured)
    expected = [tensor.clone() for tensor in flatten_state(captured.state_dict())[0].values()]
    captured.load_state_dict(unflatten_state(saved, rest))
    iterate(9, captured)
    assert captured.work.recorded
    assert_close(list(flatten_state(captured.state_dict())[0].values()), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_precisions_train_on_a_gpu(precision: str) -> None:
    device = torch.device("cuda")
    trainer = trainer_of("sac", device="cuda", hidden=(64,))
    try:
        set_precision(precision, trainer.agent, device)
        capture(trainer)
        for _ in range(14):
            metrics = trainer.iterate()
    finally:
        set_precision("float32", trainer.agent, device)
    assert trainer.work.recorded
    assert metrics["train/critic_loss"].isfinite().all()
    assert trainer.agent.actor_parameters.flat.dtype == torch.float32


@pytest.mark.gpu
@needs_gpu
def test_a_run_on_a_gpu_is_recorded_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-envs", "8", "--rollout-steps", "16", "--hidden", "16", "--evaluation-episodes", "2"]
    words += ["--total-steps", "6000", "--device", "cuda", "--track", "off", "--compile", "on"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    assert "recorded as CUDA graphs" in capsys.readouterr().out
    assert (tmp_path / "run" / "results.json").exists()
