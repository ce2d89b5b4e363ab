"""Presets and the list of what there is: every name that is shown can be asked for."""

import pytest

from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.overview import overview
from gumbelrl.agents.presets import read_presets, with_preset
from gumbelrl.agents.registry import AGENTS, POLICY_PRESETS
from gumbelrl.agents.run_config import check_config
from gumbelrl.envs import ENVIRONMENTS, make
from gumbelrl.policies import ESTIMATORS

ELSEWHERE = ("LunarLander-v3",)  # needs Box2D, whose import crashes Python where warnings are errors, as in tests


@pytest.mark.parametrize("name", read_presets())
def test_a_preset_is_a_run_that_can_start(name):
    preset = read_presets()[name]
    (config,) = requested_runs(with_preset(["--preset", name]))
    check_config(config)
    if config.env not in ELSEWHERE:
        make(config.env, num_envs=1, native=config.native)
    for option, value in preset.options.items():
        field = option.replace("-", "_")
        held = getattr(config, field) if hasattr(config, field) else getattr(config.agent_config, field)
        assert held == (tuple(value) if isinstance(value, list) else value)
    assert preset.command.startswith("python ")
    assert any(character.isdigit() for character in preset.result)


def test_options_beside_a_preset_win():
    for words in (["--preset", "cartpole", "--policy", "exact"], ["--policy=exact", "--preset=cartpole"]):
        (config,) = requested_runs(with_preset([*words, "--total-steps", "64"]))
        assert (config.policy, config.total_steps, config.env) == ("exact", 64, "CartPole-v1")


def test_a_preset_that_is_not_there(capsys):
    assert main(["--preset", "cartpol"]) == 2
    assert "did you mean cartpole" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a", "is not TOML"),
        ("[a]\nresult = 'x'", r"the preset a must have options, result and command, got \['result'\]"),
    ],
)
def test_a_file_of_presets_that_is_wrong_is_named(tmp_path, text, message):
    path = tmp_path / "presets.toml"
    path.write_text(text)
    with pytest.raises(RunError, match=message) as error:
        read_presets(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("width", [80, 120])
def test_the_list_names_everything_in_a_line_each(capsys, width):
    text = overview(width)
    assert max(map(len, text.splitlines())) <= width
    words = [line.split()[0] for line in text.splitlines() if line.startswith("  ")]
    assert words == [*AGENTS, *ESTIMATORS, *POLICY_PRESETS, *ENVIRONMENTS, *read_presets()]
    assert main(["--list"]) == 0
    assert "--agent" in capsys.readouterr().out
