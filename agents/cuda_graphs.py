"""Whole iterations as CUDA graphs: `--compile` on a GPU.

An iteration of small networks is thousands of kernels of a few microseconds, and the host takes longer to launch one
than the GPU to run it. A CUDA graph launches them all at once: a rollout, the environments included, the replay and all
updates are recorded once (`torch.cuda.graph`) and then replayed, the same kernels in the same order on the same memory.

A graph follows what lies in memory and nothing that the host knows:

- Tensors must stay where they are. What an iteration changes in place does; what it puts in the place of another (the
  state of the environments, say) is copied back, as the last work of the graph, to where the first one was.
- Numbers that change over a run must be tensors (`numbers_on_the_device`). Random numbers come of one, a counter.
- What the host decides by counting (whether there are enough steps to learn, whether the actor is due) makes a graph
  for each way it may turn out (`upcoming`).
- Nothing may wait for the device: faults are noted there (`faults.py`), metrics are read when a row is due.

The first iterations of each kind are eager, which also makes what is made at first use: moments, the replay's memory.
They count as any others, so that nothing has to be taken back. Diagnostics and evaluations stay eager, beside the
graphs. Kernels are PyTorch's own: they are not fused by a compiler as well.

Not done: several iterations in one graph. What the host does between two replays is one launch and the filling of a few
numbers, and it runs ahead of the device, which is busy with thousands of kernels meanwhile.
"""

from __future__ import annotations

import gc
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from gumbelrl.agents.errors import RunError
from gumbelrl.agents.faults import faults_of
from gumbelrl.agents.held_state import Path, Place, numbers_of, tensors_of
from gumbelrl.agents.progress_tensors import numbers_on_the_device
from gumbelrl.agents.rollout import Transition
from gumbelrl.envs.native import NativeEnv

WARM_UP = 3
"""Eager iterations of a kind before it is recorded: libraries make their handles and workspaces in the first ones."""

WORTH_CAPTURING = 32
"""Iterations of a run from which on `auto` records them: to record takes about as long as an eager iteration or two. A
guess, not measured."""

COUNTED = {
    ("step",),
    ("env", "_eager_s"),
    ("agent", "num_steps_seen"),
    ("agent", "num_updates"),
    ("agent", "replay", "num_rows"),
}
"""Numbers on the host that change from one iteration to the next, and on which no recorded work depends beyond what
`upcoming` says."""

Work: TypeAlias = Callable[[], Any]

Kind: TypeAlias = tuple[bool, ...]
"""What the host decides of an iteration by counting: of each update of an off-policy agent, whether it moves the actor;
nothing before there are enough steps, and for other agents."""


class Recording(Protocol):
    """Work that can be done again."""

    def replay(self) -> None: ...


class Backend(Protocol):
    """How work is recorded."""

    def warm_up(self, work: Work) -> Any:
        """Do the work, where it is not recorded yet, and return what it returns."""

    def record(self, work: Work) -> Recording:
        """Record the work, which need not be done before the first replay."""

    def forget(self) -> None:
        """Take it that no recording so far is replayed any more."""


class CudaGraphs:
    """Recordings as CUDA graphs, which share one pool of memory; made on streams of their own."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()
        self.forget()

    def warm_up(self, work: Work) -> Any:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            found = work()
        torch.cuda.current_stream().wait_stream(self.stream)
        return found

    def record(self, work: Work) -> Recording:
        gc.collect()  # or memory that Python frees while recording would be taken for the graph's
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: what keeps files in another may use the device as it likes.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            work()
        return graph

    def forget(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()  # one that has lost all of its graphs takes no others


class RepeatedCalls:
    """Stands in for graphs where there is no GPU: a recording does the work anew, on the host too.

    It is not faster than an eager iteration. What it shows is that an iteration on memory that stays where it is gives
    what it should.
    """

    def warm_up(self, work: Work) -> Any:
        return work()

    def record(self, work: Work) -> Recording:
        return _Call(work)

    def forget(self) -> None:
        """There is no memory of recordings."""


class _Call:
    def __init__(self, work: Work) -> None:
        self.replay = work


def upcoming(agent: Any) -> Kind:
    """Return of which kind an agent's next iteration is; it counts nothing."""
    if not hasattr(agent, "num_updates"):
        return ()
    config, before, due = agent.config, agent.num_updates, []
    if agent.num_steps_seen + _steps(agent) < config.learning_starts:
        return ()
    for _ in range(config.updates_per_iteration):
        agent.num_updates += 1
        due.append(agent.actor_is_due())
    agent.num_updates = before
    return tuple(due)


def pass_over(agent: Any, kind: Kind) -> None:
    """Count, on the host, what a replay has done."""
    if hasattr(agent, "num_updates"):
        agent.num_steps_seen += _steps(agent)
        agent.num_updates += len(kind)
        agent.replay.num_rows = min(agent.replay.num_rows + _steps(agent), agent.replay.capacity)


def _steps(agent: Any) -> int:
    return agent.config.num_envs * agent.config.rollout_steps


class CaptureError(RunError):
    """An iteration cannot be recorded."""


def captures(mode: str, trainer: Any) -> CapturedWork | None:
    """Have a loop's iterations recorded, if its run asks for it and is on a GPU; return what replays them, or None.

    `auto` decides by the number of iterations that the settings say, not by a clock.

    Args:
        mode: `auto`, `off` or `on`.
        trainer: before its first iteration.

    Raises:
        RunError: `on` was asked for, and there is an obstacle.
    """
    if trainer.env.device.type != "cuda" or mode == "off":
        return None
    reason = obstacle(trainer)
    if mode == "on":
        if reason:
            raise RunError(f"--compile on: {reason}")
        return capture(trainer)
    few = trainer.total_steps < WORTH_CAPTURING * trainer.steps_per_iteration
    return None if reason or few else capture(trainer, or_eager=True)


def capture(trainer: Any, *, backend: Backend | None = None, or_eager: bool = False) -> CapturedWork:
    """Have a loop's iterations recorded after the first few, and replayed from then on.

    Metrics that `iterate` returns are then the same tensors every time, which the next iteration fills anew.

    Args:
        trainer: one that `obstacle` finds nothing against.
        backend: CUDA graphs if not given.
        or_eager: where an iteration turns out not to be recordable, go on eagerly with a warning instead of raising.
    """
    numbers_on_the_device(trainer.agent)
    if trainer.faults is None:
        trainer.faults = faults_of(trainer)
    work = CapturedWork(trainer, backend or CudaGraphs(), or_eager=or_eager)
    load = trainer.load_state_dict

    def load_anew(state: dict[str, Any]) -> None:
        """A state brings tensors of its own."""
        load(state)
        work.release()

    trainer.work, trainer.load_state_dict = work, load_anew
    return work


def obstacle(trainer: Any) -> str | None:
    """Return why a loop's iterations are not recorded, or None."""
    if not isinstance(trainer.env, NativeEnv):
        name = type(trainer.env).__name__
        return f"{name} steps on the host, and a CUDA graph holds work of the device alone; leave one of the two out"
    if trainer.group.size > 1:
        return "gradients are averaged between processes outside of the graph; leave one of the two out"
    return None


class CapturedWork:
    """`Trainer.work` by replays.

    Args:
        trainer: whose work it is; every tensor that it holds may be changed by it, in place or by assignment.
        backend: that records.
        or_eager: where it cannot be recorded, go on eagerly with a warning.

    Attributes:
        recorded: the graphs, by what the host knows of an iteration.
    """

    def __init__(self, trainer: Any, backend: Backend, *, or_eager: bool = False) -> None:
        self.trainer, self.backend, self.or_eager = trainer, backend, or_eager
        self.work: Callable[[], tuple[Transition, dict[str, Tensor]]] = trainer.work
        self.eager_only = False
        self.release()

    def release(self) -> None:
        """Let go of the graphs and their memory; later iterations are recorded anew."""
        self.recorded: dict[Kind, RecordedIteration] = {}
        self.backend.forget()
        self.warmed: Counter[Kind] = Counter()
        self.static: dict[Path, Tensor] = {}  # where an iteration puts what it assigns
        self.metrics: dict[tuple[str, torch.Size], Tensor] = {}  # and its metrics, by name and shape
        self.numbers: dict[Path, float] = {}  # on the host, as the last eager iteration found them

    def undo(self) -> None:
        """Have the loop iterate eagerly again."""
        self.release()
        for name in ("work", "load_state_dict"):
            vars(self.trainer).pop(name, None)

    def __call__(self) -> tuple[Transition, dict[str, Tensor]]:
        """Do the work of an iteration; return its rollout and metrics, which the next iteration may overwrite."""
        if self.eager_only:
            return self.work()
        kind = upcoming(self.trainer.agent)
        if kind not in self.recorded and self.warmed[kind] >= WARM_UP:
            try:
                self._record(kind)
            except CaptureError as error:
                if not self.or_eager:
                    raise
                warnings.warn(f"{error}; training goes on without (--compile off says so at once)", stacklevel=2)
                self.release()
                self.eager_only = True
                return self.work()
        if kind not in self.recorded:
            return self._warm_up(kind)
        found = self.recorded[kind]
        found.recording.replay()
        pass_over(self.trainer.agent, kind)
        return found.rollout, dict(found.metrics)

    def _warm_up(self, kind: Kind) -> tuple[Transition, dict[str, Tensor]]:
        """Work eagerly, and see which tensors are replaced by that."""
        before = {place.path: place.value for place in self.tensors()}
        self.numbers = self._host_numbers()
        rollout, metrics = self.backend.warm_up(self.work)
        after = self.tensors()
        layouts = [{path: (x.shape, x.dtype) for path, x in each.items()} for each in (before, _by_path(after))]
        if layouts[0] != layouts[1]:  # as in the first iteration, which makes moments and a replay
            self.release()
            return rollout, metrics
        assigned = [place for place in after if place.value is not before[place.path]]
        self.settle([place for place in assigned if place.path in self.static])
        for place in assigned:
            if place.path not in self.static:
                # Its own memory: that of the tensor it was given may be another's too. Graphs read the old one.
                self.static[place.path] = place.value.detach().clone()
                place.put(self.static[place.path])
                self.recorded.clear()
                self.backend.forget()
        for name, value in metrics.items():
            self.metrics.setdefault((name, value.shape), value.detach().clone())
        self.warmed[kind] += 1
        return rollout, metrics

    def _host_numbers(self) -> dict[Path, float]:
        found = numbers_of(self.trainer, leave_out=[self])
        return {place.path: place.value for place in found if place.path not in COUNTED}

    def tensors(self) -> list[Place]:
        """Return where the loop holds tensors, but for those of this object."""
        return tensors_of(self.trainer, leave_out=[self])

    @torch.no_grad()
    def settle(self, assigned: list[Place]) -> None:
        """Copy what was assigned to places to where their tensors stay, and have them hold those."""
        storages = {each.untyped_storage().data_ptr() for each in self.static.values()}
        # What was assigned may be what another place held: take it before that is written.
        values = [place.value for place in assigned]
        values = [each.clone() if each.untyped_storage().data_ptr() in storages else each for each in values]
        for place, value in zip(assigned, values, strict=True):
            self.static[place.path].copy_(value)
            place.put(self.static[place.path])

    def _record(self, kind: Kind) -> None:
        """Record an iteration of a kind that has been warmed up.

        Raises:
            CaptureError: it waits for the device, or depends on a number on the host that changes.
        """
        numbers = self._host_numbers()
        for path, number in numbers.items():
            before = self.numbers.get(path, number)
            if number != before and not (number != number and before != before):
                name = ".".join(map(str, path))
                raise CaptureError(f"an iteration cannot be recorded: {name} changes from one to the next on the host")
        held = {place.path: place.value for place in self.tensors()}
        found = RecordedIteration(self, held)
        try:
            found.recording = self.backend.record(found.work)
        except Exception as error:  # whatever CUDA or torch raise
            for place in self.tensors():
                place.put(held.get(place.path, place.value))
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CaptureError(f"an iteration cannot be recorded: {reason[0]}") from error
        self.recorded[kind] = found


class RecordedIteration:
    """An iteration on memory that stays where it is.

    Args:
        owner: whose iteration it is.
        held: every tensor that the loop holds, by its path.
    """

    recording: Recording
    rollout: Transition

    def __init__(self, owner: CapturedWork, held: dict[Path, Tensor]) -> None:
        self.owner, self.held = owner, held
        self.metrics: dict[str, Tensor] = {}

    def work(self) -> None:
        """Work, and leave all that the loop holds in the tensors that it held; numbers on the host are as before."""
        counts = [(place, place.value) for place in numbers_of(self.owner.trainer, leave_out=[self.owner])]
        try:
            self.rollout, metrics = self.owner.work()
        finally:
            for place, count in counts:
                place.put(count)
        self._hold(metrics)

    @torch.no_grad()
    def _hold(self, metrics: dict[str, Tensor]) -> None:
        assigned = [place for place in self.owner.tensors() if place.value is not self.held.get(place.path)]
        for place in assigned:
            if place.path not in self.owner.static:
                raise CaptureError(f"it replaces {place.name} only sometimes")
        self.owner.settle(assigned)
        for name, value in metrics.items():
            self.metrics[name] = self.owner.metrics[name, value.shape]
            self.metrics[name].copy_(value)


def _by_path(places: list[Place]) -> dict[Path, Tensor]:
    return {place.path: place.value for place in places}
