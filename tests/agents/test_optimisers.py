"""Our optimisers against torch's, bit for bit, and what they are for: not importing its compiler."""

import subprocess
import sys

import pytest
import torch

from gumbelrl.agents.optimisers import Adam, RMSprop

THEIRS = {
    Adam: lambda groups, **options: torch.optim.Adam(groups, fused=True, **options),
    RMSprop: lambda groups, **options: torch.optim.RMSprop(groups, foreach=True, **options),
}


def parameters():
    generator = torch.Generator().manual_seed(3)
    return [torch.nn.Parameter(torch.randn(2, size, generator=generator)) for size in (7, 40)]


@pytest.mark.parametrize("ours", THEIRS)
@pytest.mark.parametrize("rate", [3e-3, torch.tensor(3e-3)], ids=["number", "tensor"])
def test_steps_equal_those_of_torch_bit_for_bit(ours, rate):
    pairs = [(make, parameters()) for make in (ours, THEIRS[ours])]
    optimisers = [make([mine[0], mine[1]], lr=rate, eps=1e-5) for make, mine in pairs]
    generator = torch.Generator().manual_seed(4)
    for step in range(20):
        gradients = [torch.randn(parameter.shape, generator=generator) for parameter in parameters()]
        for optimiser, (_, mine) in zip(optimisers, pairs, strict=True):
            mine[0].grad = gradients[0]
            mine[1].grad = None if step % 3 == 1 else gradients[1]  # one that does not always learn
            if step == 10:
                optimiser.param_groups[0]["lr"] = rate / 2
            optimiser.step()
        for mine, theirs in zip(pairs[0][1], pairs[1][1], strict=True):
            assert torch.equal(mine, theirs)
            states = [optimiser.state[p] for optimiser, p in zip(optimisers, (mine, theirs), strict=True)]
            assert states[0].keys() == states[1].keys()
            assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_each_group_has_its_own_rate():
    mine, theirs = parameters(), parameters()
    rates = (torch.tensor(1e-2), torch.tensor(1e-4))
    optimisers = [
        make([{"params": [p], "lr": rate} for p, rate in zip(held, rates, strict=True)])
        for make, held in ((Adam, mine), (THEIRS[Adam], theirs))
    ]
    for optimiser, held in zip(optimisers, (mine, theirs), strict=True):
        for parameter in held:
            parameter.grad = torch.ones_like(parameter)
        optimiser.step()
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine[1], theirs[1])


@pytest.mark.parametrize("agent", ["actor-critic", "sac", "a2c"])
def test_a_run_begins_without_what_takes_long_to_import(agent, tmp_path):
    slow = ["torch._dynamo", "sympy", "matplotlib", "stable_baselines3", "wandb", "scipy", "pandas", "yaml"]
    words = ["--agent", agent, "--track", "off", "--total-steps", "4096", "--output", str(tmp_path / "run")]
    code = (
        "import sys\n"
        "from gumbelrl.agents.command_line import main\n"
        "from gumbelrl.agents.experiment import Experiment\n"
        f"evaluate = lambda self: print([name for name in {slow} if name in sys.modules]) or sys.exit()\n"
        "Experiment._evaluate = evaluate\n"
        f"main({words})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert out.stdout.splitlines()[-1] == "[]"
