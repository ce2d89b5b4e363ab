"""A compiled step does what the eager one does, bit for bit; without a compiler steps stay eager."""

import shutil

import pytest
import torch

from gumbelrl.envs import ENVIRONMENTS, compiled, make, native, random_actions
from gumbelrl.envs.conformance import no_host_reads

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
FAST = ("gumbelrl/CartPole-v1", "gumbelrl/MultiButton-v0")  # sines; masks, and a state of several tensors


ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ENVIRONMENTS]


def pair(name, num_envs=8):
    eager, other = make(name, num_envs=num_envs, compile=False), make(name, num_envs=num_envs, compile=True)
    eager.reset(3)
    other.reset(3)
    return eager, other


def assert_equal_steps(ours, theirs, time):
    for field in ("observation", "reward", "terminated", "truncated", "final_observation"):
        assert torch.equal(getattr(ours, field), getattr(theirs, field)), f"step {time}: {field}"
    assert ours.info.keys() == theirs.info.keys()
    for key, value in ours.info.items():
        assert torch.equal(value, theirs.info[key]), f"step {time}: info[{key!r}]"


@needs_compiler
@pytest.mark.parametrize("name", ALL)
def test_equals_the_eager_step_bit_for_bit(name):
    eager, other = pair(name)
    generator = torch.Generator().manual_seed(0)
    for time in range(200):
        action = random_actions(eager, generator)
        assert_equal_steps(eager.step(action), other.step(action), time)
    assert other.compile is True, "the step was not compiled"
    ours, theirs = eager.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


@needs_compiler
def test_goes_on_from_a_saved_state_and_with_another_time_limit():
    """Resets and truncations included; a limit that is changed is compiled anew."""
    eager, other = pair("gumbelrl/CartPole-v1")
    generator = torch.Generator().manual_seed(1)
    for _ in range(30):
        other.step(random_actions(other, generator))
    eager.load_state_dict({name: value.clone() for name, value in other.state_dict().items()})
    ends = 0
    for time in range(60):
        if time == 30:
            eager.max_episode_steps = other.max_episode_steps = 5
        action = random_actions(eager, generator)
        step = eager.step(action)
        assert_equal_steps(step, other.step(action), time)
        ends += int((step.terminated | step.truncated).sum())
    assert ends > 8 * 4
    restored = make("gumbelrl/CartPole-v1", num_envs=8)
    restored.reset(0)
    restored.load_state_dict(other.state_dict())
    restored.max_episode_steps = 5
    action = random_actions(other, generator)
    assert_equal_steps(other.step(action), restored.step(action), 60)


@needs_compiler
def test_goes_on_from_a_state_with_other_strides():
    """A file may hold a state's parts with environments innermost where the graph reads them outermost."""
    eager, other = pair("gumbelrl/CartPole-v1")
    generator = torch.Generator().manual_seed(6)
    action = random_actions(other, generator)
    other.step(action)
    saved = other.state_dict()
    turned = saved["state"].t().contiguous().t()
    assert turned.stride() != saved["state"].stride()
    for env in (eager, other):
        env.load_state_dict(saved | {"state": turned})
    for time in range(3):
        action = random_actions(other, generator)
        assert_equal_steps(eager.step(action), other.step(action), time)


@needs_compiler
def test_leaves_what_it_returned_alone():
    """Steps that are kept, as a rollout keeps them, are not written into by later ones."""
    _, other = pair("gumbelrl/MultiButton-v0")
    generator = torch.Generator().manual_seed(2)
    kept = [other.step(random_actions(other, generator)) for _ in range(10)]
    copies = [tuple(part.clone() for part in step[:5]) for step in kept]
    for _ in range(10):
        other.step(random_actions(other, generator))
    for step, copy in zip(kept, copies, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(step[:5], copy, strict=True))


@needs_compiler
@pytest.mark.parametrize("name", FAST)
def test_neither_graph_nor_call_reads_on_the_host(name):
    """Operations that a compiled step still calls are seen here; what is generated cannot read on the host."""
    _, other = pair(name)
    action = random_actions(other, torch.Generator().manual_seed(3))
    other.step(action)
    with no_host_reads():
        step = other.step(action)
    assert step.reward.shape == (8,)


@needs_compiler
@pytest.mark.parametrize("name", FAST)
def test_takes_an_action_outside_the_space_for_the_nearest(name):
    """So no look-up leaves its table, which compiled ones do not check."""
    eager, other = pair(name)
    top = torch.tensor(native.choice_counts(eager.single_action_space)) - 1
    action = random_actions(eager, torch.Generator().manual_seed(5))
    wrong, nearest = action.clone(), action.clone()
    wrong[0], nearest[0], wrong[1], nearest[1] = 1000, top if action.dim() > 1 else top[0], -1000, 0
    assert_equal_steps(eager.step(nearest), other.step(wrong), 0)


@needs_compiler
def test_auto_compiles_once_eager_steps_have_taken_long(monkeypatch):
    env = make("gumbelrl/MultiButton-v0", num_envs=8)
    assert env.compile == "auto"
    env.reset(0)
    action = random_actions(env, torch.Generator().manual_seed(4))
    env.step(action)
    assert env._compiled is None
    monkeypatch.setattr(native, "PATIENCE_S", 0.0)
    env.step(action)
    assert env._compiled is not None
    assert env.resized(4).compile is False


def test_without_a_compiler_steps_stay_eager_with_one_warning(monkeypatch):
    def fails(*_):
        raise RuntimeError("no working C++ compiler\nand many more lines")

    monkeypatch.setattr(compiled, "_compiled", fails)
    eager, other = pair("gumbelrl/CartPole-v1", 4)
    action = torch.zeros(4, dtype=torch.int64)
    with pytest.warns(RuntimeWarning, match=r"CartPole cannot be compiled here: no working C\+\+ compiler; its steps"):
        assert_equal_steps(eager.step(action), other.step(action), 0)
    assert_equal_steps(eager.step(action), other.step(action), 1)  # a second warning would be an error


def test_refuses_another_choice_of_compile():
    with pytest.raises(ValueError, match="compile is True, False or 'auto', got 'always'"):
        make("gumbelrl/CartPole-v1", num_envs=4, compile="always")
