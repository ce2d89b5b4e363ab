"""The step of a native environment as one compiled graph: the rules, the autoreset and the random numbers together.

The rules are traced once (they have no branch on data) and the graph goes straight to inductor, without Dynamo and its
checks in every call. So what the environment was made with, its time limit and the number of envs are those of the
first compiled step.

On a CPU the results are those of eager steps to the last bit: integers always are, sums and products are not contracted
or put in another order, and functions whose eager kernels round in their own way are called rather than generated.
"""

from __future__ import annotations

import platform
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from gumbelrl.envs.base import Step
from gumbelrl.envs.programs import Program, outputs_of, program, write_into
from gumbelrl.random import RandomStreams

if TYPE_CHECKING:
    from gumbelrl.envs.native import NativeEnv

PATIENCE_S = 10.0
"""Seconds of eager steps before `compile="auto"` compiles, which takes about as long: so a run of any length takes at
most about twice what it would have taken had one known its length."""

OPTIONS: dict[str, Any] = {
    # Plain C++, for the C++ compiler to vectorise: hashing and look-ups on integers and bools, which are most of a
    # step, take up to ten times as long through inductor's own vectors (AVX2 has no product of 64-bit integers, say).
    "cpp.simdlen": 1,
    # Values that several others take are stored if they cost this many operations, rather than computed again by each
    # of them: random numbers most of all.
    "realize_opcount_threshold": 5,
    # Elements of a loop for each thread: to wake a second one for less costs more than it gains.
    "cpp.min_chunk_size": 8192,
    # Look-ups are not checked one by one, a seventh of a game's step: actions are brought into their space instead, and
    # everything else that a table is read by comes from the rules.
    "assert_indirect_indexing": False,
    # What calls the loops is C++ too: two thirds of the time of a step of 64 environments of CartPole, and less than
    # half where many eager kernels are called (Acrobot).
    "cpp_wrapper": True,
    # Nor are sizes and alignments, in every call: a tenth of CartPole's step. Inputs are laid out as when compiled.
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}

if sys.platform == "linux" and platform.machine() == "x86_64":
    # Inductor turns off the C++ compiler's vectorisation of loops; what follows the architecture turns it on again.
    OPTIONS["cpp.march"] = "native -ftree-loop-vectorize"

ROUNDED = {
    *("sin", "cos", "exp", "log", "log1p", "tanh", "sigmoid", "pow", "erfinv", "rsqrt", "logsumexp"),
    *("addcmul", "addcdiv", "lerp", "sum", "mean", "cumsum"),
}
"""Operations on floating point that generated code rounds otherwise than the eager kernel does."""


class CompileError(RuntimeError):
    """A step cannot be compiled here: no C++ compiler, for one, or no Triton on a GPU."""


class CompiledStep:
    """`NativeEnv.step`, compiled for an environment as it is; compiling takes seconds.

    Args:
        env: after its reset.
        action: an example.
        counts: of the choices of each of its variables.
        report: what tensors are made, in the graph, of the step that the rules give; all of its own if not given. With
            it the graph is to be called itself: it takes the state and the time as `start` gives them and changes them,
            and writes what is reported into further inputs, like `places`.

    Attributes:
        graph: takes the streams' key and counter, the time, the action and the parts of the state.
        limit: the time limit that it was compiled with.
        places: examples, bytes for truth values where the graph writes those.

    Raises:
        CompileError: it cannot be compiled here.
    """

    def __init__(
        self,
        env: NativeEnv,
        action: Tensor,
        counts: Sequence[int],
        *,
        report: Callable[[Step], Sequence[Tensor]] | None = None,
    ) -> None:
        self.limit: int | None = env.max_episode_steps
        self.names: list[str] | None = None if isinstance(env.state, Tensor) else list(env.state)
        self.mask_names: list[str] = []
        example = self._parts(env.state)
        self.strides = [part.stride() for part in example]
        self.is_truth = [part.dtype == torch.bool for part in example]
        last = torch.tensor(counts, device=env.device) - 1  # one alone broadcasts over [env]
        self.num_parts = len(example)
        in_place = report is not None
        now = self.start(env) if in_place else [env.elapsed, *example]
        inputs: list[Any] = [env.streams.key, env.streams.counter.clone(), now[0], _laid_out(action), *now[1:]]
        changed = {len(example): 2} | {index: 4 + index for index in range(len(example))} if in_place else None

        def advance(key: Tensor, counter: Tensor, elapsed: Tensor, action: Tensor, *parts: Tensor) -> list[Tensor]:
            action = torch.minimum(action.clamp_min(0), last)
            noise = env.draw_noise(RandomStreams.continued(key, counter), env.num_random + env.num_step_random)
            before = [part.view(each.dtype) for part, each in zip(parts, example, strict=True)] if in_place else parts
            state, elapsed, step = env.advance(self._state(before), elapsed, action, noise)
            self.mask_names = list(step.info)
            following = self._parts(state)
            *tensors, info = step
            return _apart([*following, elapsed, *([*tensors, *info.values()] if report is None else report(step))])

        if env.num_random == 0:
            _ = env.first_observation  # a constant of the graph, not a part of it
        env.tracing = True
        try:
            options = OPTIONS | env.compile_options
            self.graph, self.truths, self.places = _compiled(advance, inputs, options, changed)
        except Exception as error:  # whatever the compiler raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CompileError(f"the step of {type(env).__name__} cannot be compiled here: {reason[0]}") from error
        finally:
            env.tracing = False

    def __call__(self, env: NativeEnv, action: Tensor) -> tuple[Tensor | dict[str, Tensor], Tensor, Step]:
        """Return the state, the time and the step; counts on the environment's random numbers."""
        parts, elapsed, found = self.run(env, self.parts(env), env.elapsed, _laid_out(action))
        observation, reward, terminated, truncated, final_observation, *masks = found
        info = dict(zip(self.mask_names, masks, strict=True))
        step = Step(observation, reward, terminated, truncated, final_observation, info)
        return self._state(parts), elapsed, step

    def run(
        self, env: NativeEnv, parts: list[Tensor], elapsed: Tensor, action: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor]]:
        """Return the parts of the next state, the time and what is reported; counts on the random numbers.

        Args:
            parts: of the state, as `parts` or the last call returned them.
            action: int64, contiguous.
        """
        streams, count = env.streams, self.num_parts
        found = list(self.graph([streams.key, streams.counter, elapsed, action, *parts]))
        for index in self.truths:
            found[index] = found[index].view(torch.bool)
        return found[:count], found[count], found[count + 1 :]

    def parts(self, env: NativeEnv) -> list[Tensor]:
        """Return the tensors of an environment's state, as the graph takes them."""
        return self.laid_out(self._parts(env.state))  # a state that was loaded may be laid out otherwise

    def laid_out(self, parts: list[Tensor]) -> list[Tensor]:
        """Return the parts of a state with the strides that the graph was compiled for."""
        return [
            part
            if part.stride() == stride
            else torch.empty_strided(part.shape, stride, dtype=part.dtype, device=part.device).copy_(part)
            for part, stride in zip(parts, self.strides, strict=True)
        ]

    def start(self, env: NativeEnv) -> list[Tensor]:
        """Return the time and the state of an environment for the graph to change: copies, bytes for truth values."""
        parts = [part.clone() for part in self.parts(env)]
        return [env.elapsed.clone(), *(part.view(torch.uint8) if part.dtype == torch.bool else part for part in parts)]

    def keep(self, env: NativeEnv, parts: list[Tensor], elapsed: Tensor) -> None:
        """Put an environment into the state that `run`, or the graph in place, led to."""
        parts = [part.view(torch.bool) if truth else part for part, truth in zip(parts, self.is_truth, strict=True)]
        env.state, env.elapsed = self._state(parts), elapsed
        env.info = env._masks(env.state, None)

    def _parts(self, state: Tensor | dict[str, Tensor]) -> list[Tensor]:
        """Return the tensors of a state; those of an initial state may be views, which the graph does not take."""
        parts = [state] if isinstance(state, Tensor) else state.values()
        return [part if part.dim() == 2 and part.t().is_contiguous() else part.contiguous() for part in parts]

    def _state(self, parts: Sequence[Tensor]) -> Tensor | dict[str, Tensor]:
        return parts[0] if self.names is None else dict(zip(self.names, parts, strict=True))


def _compiled(
    function: Any, inputs: list[Any], options: dict[str, Any], changed: Mapping[int, int] | None = None
) -> tuple[Program, list[int], list[Tensor]]:
    """Return `function`, which has no branch on data, compiled for inputs like these; which outputs are bytes; places.

    Args:
        changed: which outputs go into which inputs, if the others are to go into further inputs: see `write_into`.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own parts
        graph = make_fx(function)(*inputs)
        for node in graph.graph.nodes:
            if _rounds_otherwise(node):
                node.meta["custom"] = {"fallback_to_eager": True}
        truths = _bytes_for_truths(graph)
        places = [] if changed is None else write_into(graph, changed)
        return program(graph, [*inputs, *places], options), truths, places


def _apart(tensors: list[Tensor]) -> list[Tensor]:
    """Return the same tensors, copies where two share memory: torch would part and join those in every call."""
    seen: set[int] = set()
    found = []
    for each in tensors:
        found.append(each.clone() if each.untyped_storage().data_ptr() in seen else each)
        seen.add(each.untyped_storage().data_ptr())
    return found


def _bytes_for_truths(graph: GraphModule) -> list[int]:
    """Leave out views of bytes as truth values and back, which keep the C++ compiler from taking many at a time.

    Returns:
        Which outputs are bytes now, of those that were truth values.
    """
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.detach.default:
            node.replace_all_uses_with(node.args[0])
    for node in list(graph.graph.nodes):
        if not _is_view(node, torch.uint8):
            continue
        source = node.args[0]
        if _is_view(source, torch.bool) and source.args[0].meta["val"].dtype == torch.uint8:
            node.replace_all_uses_with(source.args[0])
        elif source.op == "get_attr":  # a constant is made once
            name = f"{source.target}_bytes"
            graph.register_buffer(name, getattr(graph, source.target).view(torch.uint8))
            with graph.graph.inserting_before(node):
                constant = graph.graph.get_attr(name)
            constant.meta = node.meta
            node.replace_all_uses_with(constant)
    output = graph.graph.output_node()
    found, truths = outputs_of(graph), []
    for index, node in enumerate(found):
        if isinstance(node, Node) and _is_view(node, torch.bool):
            found[index] = node.args[0]
            truths.append(index)
    output.args = (found,)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return truths


def _is_view(node: Node, dtype: torch.dtype) -> bool:
    """Return whether a node views bytes or truth values as `dtype`."""
    return node.target is torch.ops.aten.view.dtype and node.args[1] == dtype


def _rounds_otherwise(node: Node) -> bool:
    """Return whether an operation's eager kernel is to be called, so that its bits are the eager ones."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    value = node.meta.get("val", node.meta.get("tensor_meta"))
    if not getattr(getattr(value, "dtype", None), "is_floating_point", False):  # unbind gives a list
        return False
    name = node.target.overloadpacket.__name__.rstrip("_")
    if name == "pow" and node.args[1:] == (2,):
        return False  # a product in both
    return name in ROUNDED or (name in ("add", "sub") and "alpha" in node.kwargs)  # one rounding, not two


def _laid_out(action: Tensor) -> Tensor:
    """Return the action as the graph expects it, which is how it comes from an agent."""
    return action.to(torch.int64).contiguous()
