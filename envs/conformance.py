"""What every native environment must keep: `check_batched_env(env)` says what it does not.

Call it from the test of an environment. It makes environments of other sizes by `env.resized`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gumbelrl.envs.base import Step
from gumbelrl.envs.native import NativeEnv, choice_counts

# Operators that read a tensor on the host or whose output size depends on data: a CUDA stream would stop for them.
FORBIDDEN = {
    "aten::_local_scalar_dense",
    "aten::item",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::equal",
    "aten::is_nonzero",
    "aten::repeat_interleave.Tensor",
}


def random_actions(env: NativeEnv, generator: torch.Generator) -> Tensor:
    """Return uniformly random valid actions, int64 `[env]` or `[env, variable]`."""
    counts = choice_counts(env.single_action_space)
    scores = torch.rand(env.num_envs, sum(counts), generator=generator).to(env.device)
    mask = env.info.get("action_mask")
    if mask is not None:
        scores = scores.where(mask, torch.full_like(scores, -1.0))
    chosen = torch.stack([part.argmax(1) for part in scores.split(counts, dim=1)], dim=1)
    return chosen[:, 0] if isinstance(env.single_action_space, spaces.Discrete) else chosen


def check_batched_env(env: NativeEnv, *, steps: int = 200, random_steps: int = 10_000) -> None:
    """Check an environment against its contract, `NativeEnv` and `BatchedEnv`.

    Args:
        env: any instance; it is reset.
        steps: of most checks; should span several episodes, or the check of ends shows little.
        random_steps: environment steps of random play without a value that is not finite.

    Raises:
        AssertionError: with a sentence.
    """
    check_forms(env)
    check_batched_equals_looped(env, steps)
    check_seeds(env, steps)
    check_time_limit(env)
    check_refusals(env)
    check_saving(env, steps)
    check_no_host_reads(env)
    check_random_play(env, random_steps)
    check_rendering(env)


def check_forms(env: NativeEnv, steps: int = 20) -> None:
    """Check shapes, dtypes, devices, spaces and masks, and that rules do not write into the state they are given."""
    generator = torch.Generator().manual_seed(0)
    space = env.single_observation_space
    assert isinstance(space, spaces.Box | spaces.Discrete), f"observations are Box or Discrete, not {space}"
    counts = choice_counts(env.single_action_space)
    _check_observation(env, env.reset(0), "reset")
    for _ in range(steps):
        before = _clone(env.state)
        held = env.state
        step = env.step(random_actions(env, generator))
        _assert_same(before, held, "a step wrote into the state before it")
        _check_observation(env, step.observation, "step")
        _check_observation(env, step.final_observation, "final_observation")
        for name, dtype in (("reward", torch.float32), ("terminated", torch.bool), ("truncated", torch.bool)):
            value = getattr(step, name)
            assert value.shape == (env.num_envs,), f"{name} has the shape {tuple(value.shape)}"
            assert value.dtype == dtype, f"{name} is {value.dtype}, not {dtype}"
            assert value.device.type == env.device.type, f"{name} is on {value.device}"
        assert not (step.terminated & step.truncated).any(), "an episode was both terminated and truncated"
        for name, value in step.info.items():
            assert value.shape[0] == env.num_envs, f"info[{name!r}] has the shape {tuple(value.shape)}"
            if name.endswith("action_mask"):
                assert value.shape == (env.num_envs, sum(counts)), f"{name} has the shape {tuple(value.shape)}"
                assert value.dtype == torch.bool, f"{name} is {value.dtype}, not bool"
                assert all(part.any(1).all() for part in value.split(counts, dim=1)), f"a {name} allows nothing"


def check_batched_equals_looped(env: NativeEnv, steps: int) -> None:
    """Check that five environments together do what each does alone, bit for bit; so no reset touches another."""
    seeds = [11, 12, 13, 14, 15]
    batch, singles = env.resized(len(seeds)), [env.resized(1) for _ in seeds]
    first = torch.cat([single.reset([seed]) for single, seed in zip(singles, seeds, strict=True)])
    _assert_same(batch.reset(seeds), first, "reset: batched differs from looped")
    generator = torch.Generator().manual_seed(1)
    for time in range(steps):
        action = random_actions(batch, generator)
        step = batch.step(action)
        alone = [single.step(action[i : i + 1]) for i, single in enumerate(singles)]
        for name in Step._fields:
            if name != "info":
                together = torch.cat([getattr(each, name) for each in alone])
                _assert_same(getattr(step, name), together, f"step {time}: {name} batched differs from looped")
        for name, value in step.info.items():
            _assert_same(value, torch.cat([each.info[name] for each in alone]), f"step {time}: info[{name!r}]")
        going_on = ~(step.terminated | step.truncated)
        _assert_same(
            step.observation[going_on], step.final_observation[going_on], "an episode that goes on was disturbed"
        )


def check_seeds(env: NativeEnv, steps: int) -> None:
    """Check that equal seeds give equal play, and that others do not where there is anything random."""
    played = []
    for seed in (3, 3, 4):
        env.reset(seed)
        generator = torch.Generator().manual_seed(2)
        seen = [env.step(random_actions(env, generator)) for _ in range(steps)]
        played.append((torch.stack([s.observation for s in seen]), torch.stack([s.reward for s in seen])))
    _assert_same(played[0], played[1], "the same seed gave another play")
    if env.num_random or env.num_step_random:
        same = all(torch.equal(a, b) for a, b in zip(played[0], played[2], strict=True))
        assert not same, "another seed gave the same play"


def check_time_limit(env: NativeEnv, limit: int = 3) -> None:
    """Check that a limit truncates at its step, keeps the last observation and starts again."""
    limited = env.resized(8)
    limited.max_episode_steps = limit
    limited.reset(5)
    generator = torch.Generator().manual_seed(3)
    elapsed = torch.zeros(8, dtype=torch.int32, device=env.device)
    for _ in range(4 * limit):
        step = limited.step(random_actions(limited, generator))
        elapsed = elapsed + 1
        _assert_same(
            step.truncated, (elapsed == limit) & ~step.terminated, "truncated is not at the time limit, or not only"
        )
        elapsed = elapsed * ~(step.terminated | step.truncated)
        _assert_same(limited.elapsed, elapsed, "the time of an episode is not counted from its start")


def check_refusals(env: NativeEnv) -> None:
    """Check that `check_actions` refuses actions outside the space and masked ones, and takes the others."""
    checked = env.resized(3)
    checked.reset(0)
    counts = choice_counts(env.single_action_space)
    valid = random_actions(checked, torch.Generator().manual_seed(4))
    for wrong in (-1, max(counts)):
        action = valid.clone()
        action.view(3, -1)[1] = wrong
        _assert_refused(checked, action, "environment 1 is not in")
    flat = checked.info.get("action_mask")
    if flat is not None:
        masked = valid.clone().view(3, -1)
        for variable, part in enumerate(flat.split(counts, dim=1)):
            for row in (~part).any(1).nonzero()[:, 0].tolist():
                action = masked.clone()
                action[row, variable] = int((~part[row]).to(torch.int64).argmax())
                _assert_refused(checked, action.view(valid.shape), f"environment {row} is masked")
    checked.check_actions(valid)


def check_saving(env: NativeEnv, steps: int) -> None:
    """Check that a saved environment goes on bit for bit."""
    one, other = env.resized(4), env.resized(4)
    one.reset(1)
    other.reset(2)
    generator = torch.Generator().manual_seed(5)
    for _ in range(steps // 2):
        one.step(random_actions(one, generator))
    other.load_state_dict({name: value.clone() for name, value in one.state_dict().items()})
    for _ in range(steps // 2):
        action = random_actions(one, generator)
        ours, theirs = one.step(action), other.step(action)
        _assert_same(ours[:5], theirs[:5], "a saved environment went on differently")


def check_no_host_reads(env: NativeEnv) -> None:
    """Check that a step neither reads a tensor on the host nor makes one whose size depends on data."""
    env.reset(0)
    actions = [random_actions(env, torch.Generator().manual_seed(6))]
    with no_host_reads():
        step = env.step(actions[0])
    assert step.reward.shape == (env.num_envs,)


def no_host_reads() -> TorchDispatchMode:
    """Return a context in which a step that waits for the device is an AssertionError; see `check_no_host_reads`."""
    return _NoHostReads()  # type: ignore[no-untyped-call]


class _NoHostReads(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name()
        indexed = name == "aten::index.Tensor" and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        waits = indexed or name in FORBIDDEN
        assert not waits, f"a step uses {name}, which waits for the device"
        return func(*args, **(kwargs or {}))


def check_random_play(env: NativeEnv, random_steps: int) -> None:
    """Check that random play of `random_steps` environment steps gives finite numbers."""
    batch = env.resized(64)
    batch.reset(7)
    generator = torch.Generator().manual_seed(7)
    for _ in range(-(-random_steps // 64)):
        step = batch.step(random_actions(batch, generator))
        for name in ("observation", "reward", "final_observation"):
            assert getattr(step, name).isfinite().all(), f"{name} is not finite"


def check_rendering(env: NativeEnv) -> None:
    """Check that the environment can be drawn and described, in any row."""
    env.reset(0)
    row = env.num_envs - 1
    picture, text = env.draw(row), env.describe(row)
    assert picture.dtype == np.uint8, f"draw gives {picture.dtype}, not uint8"
    assert picture.ndim == 3, f"a picture is [height, width, 3], not {picture.shape}"
    assert picture.shape[2] == 3, f"a picture is [height, width, 3], not {picture.shape}"
    assert min(picture.shape[:2]) >= 64, f"the picture is tiny: {picture.shape}"
    assert picture.std() > 0, "the picture is blank"
    assert text.strip(), "describe gives nothing"


def _check_observation(env: NativeEnv, observation: Tensor, where: str) -> None:
    space = env.single_observation_space
    assert observation.device.type == env.device.type, f"{where}: the observation is on {observation.device}"
    assert observation.shape == (env.num_envs, *(space.shape or ())), f"{where}: shape {tuple(observation.shape)}"
    rows = observation.cpu().numpy()
    if env.dtype == torch.float32:
        assert rows.dtype == space.dtype, f"{where}: the observation is {rows.dtype}, its space {space.dtype}"
        for row in rows:
            assert space.contains(row), f"{where}: the observation {row} is not in {space}"


def _assert_refused(env: NativeEnv, action: Tensor, words: str) -> None:
    try:
        env.check_actions(action)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    assert words in refusal, f"the actions {action.tolist()} were not refused ('{words}') but: {refusal!r}"


def _assert_same(one: Any, other: Any, what: str) -> None:
    if isinstance(one, dict):
        for name, value in one.items():
            _assert_same(value, other[name], f"{what} ({name})")
    elif isinstance(one, tuple):
        for ours, theirs in zip(one, other, strict=True):
            _assert_same(ours, theirs, what)
    else:
        assert torch.equal(one, other), what


def _clone(state: Any) -> Any:
    return {name: value.clone() for name, value in state.items()} if isinstance(state, dict) else state.clone()
