"""Precisions of matrix products: what is rounded, and what a machine is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from gumbelrl.agents import AGENTS, ActorCritic, ActorCriticConfig
from gumbelrl.agents.command_line import main
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.networks import StackedLinear, StackedMLP
from gumbelrl.agents.precision import check_precision, set_precision
from gumbelrl.envs import CartPole
from gumbelrl.policies import ActionLayout
from gumbelrl.random import RandomStreams

CPU = torch.device("cpu")
multiplies_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
needs_bf16 = pytest.mark.skipif(not multiplies_bf16, reason="needs a CPU that multiplies bfloat16")


def agent_of(name: str = "actor-critic", **settings: Any) -> Any:
    return AGENTS[name].agent(
        AGENTS[name].config(hidden=(256, 256), **settings),
        layout=ActionLayout.from_space(CartPole(1).single_action_space),
        num_features=4,
        seeds=(0, 1),
    )


def test_bf16_rounds_the_factors_and_gives_float32() -> None:
    layer, inputs = StackedLinear(RandomStreams([0, 1]), 8, 5), torch.randn(3, 2, 7, 8)
    exact = layer(inputs)
    layer.factors = torch.bfloat16
    rounded = layer(inputs)
    assert rounded.dtype == torch.float32
    factors = (each.bfloat16().float() for each in (inputs, layer.weight))
    assert_close(rounded, torch.einsum("smbi,mio->smbo", *factors), rtol=2**-7, atol=1e-2)
    assert not torch.equal(rounded, exact)
    (gradient,) = torch.autograd.grad(rounded.sum(), layer.weight)
    assert gradient.dtype == torch.float32


@needs_bf16
@pytest.mark.parametrize("name", ["actor-critic", "ppo", "td3"])
def test_bf16_is_for_hidden_layers_of_actors_and_critics(name: str) -> None:
    agent = agent_of(name)
    set_precision("bf16", agent, CPU)
    networks = [value for value in vars(agent).values() if isinstance(value, torch.nn.Module)]
    stacks = [module for network in networks for module in network.modules() if isinstance(module, StackedMLP)]
    assert len(stacks) == {"actor-critic": 2, "ppo": 2, "td3": 4}[name]
    for stack in stacks:
        assert {layer.factors for layer in stack.hidden_layers} == {torch.bfloat16}
        assert stack.last_layer.factors is None
    plain = agent_of(name)
    observation = torch.randn(2, 9, 4)
    policy, expected = (each.policy(observation, None) for each in (agent, plain))
    assert policy.logits.dtype == torch.float32
    assert_close(policy.probs, expected.probs, rtol=0, atol=0.02)


@needs_bf16
def test_the_control_variate_stays_as_it_is() -> None:
    layout = ActionLayout.from_space(CartPole(1).single_action_space)
    agent = ActorCritic(
        ActorCriticConfig(hidden=(256,)), layout=layout, num_features=4, seeds=(0,), estimator="relax", critic="joint"
    )
    set_precision("bf16", agent, CPU)
    assert agent.path.control is not None
    assert all(layer.factors is None for layer in agent.path.control.hidden_layers)


@needs_bf16
def test_a_narrow_network_is_told_that_bf16_is_slower() -> None:
    with pytest.warns(UserWarning, match="fewer than 256 units slower"):
        set_precision("bf16", AGENTS["ppo"].agent(AGENTS["ppo"].config(), **_needs()), CPU)


def _needs() -> dict[str, Any]:
    layout = ActionLayout.from_space(CartPole(1).single_action_space)
    return {"layout": layout, "num_features": 4, "seeds": (0,)}


def test_refuses_what_a_cpu_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="--precision tf32 is what the matrix units of NVIDIA GPUs do"):
        check_precision("tf32", CPU)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    with pytest.raises(RunError, match="cannot multiply bfloat16"):
        check_precision("bf16", CPU)
    check_precision("float32", CPU)


@needs_bf16
def test_a_run_keeps_its_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--num-envs", "8", "--rollout-steps", "16", "--hidden", "256", "--evaluation-episodes", "2"]
    words += ["--total-steps", "256", "--track", "off", "--device", "cpu"]
    folders = {precision: tmp_path / precision for precision in ("float32", "bf16")}
    for precision, folder in folders.items():
        assert main([*words, "--precision", precision, "--output", str(folder)]) == 0
    written = {name: json.loads((folder / "config.json").read_text()) for name, folder in folders.items()}
    assert "precision" not in written["float32"]
    assert written["bf16"]["precision"] == "bf16"
    assert main(["--resume", str(folders["bf16"])]) == 0
    assert main([*words, "--precision", "tf32", "--output", str(tmp_path / "none")]) == 2
    assert "matrix units of NVIDIA GPUs" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
