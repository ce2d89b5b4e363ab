"""Sweeps: W&B's file format, what is drawn from it, and a sweep that is killed, gone on with and ranked."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.sweep.file import configurations, option_words, parse_parameter, parse_sweep, read_sweep

EXAMPLE = Path(__file__).parents[3] / "sweep.yaml"
METRIC = {"name": "eval/sampled_return_mean", "goal": "maximize"}
TINY = ["--num-envs", "2", "--rollout-steps", "4", "--epochs", "1", "--minibatches", "1", "--hidden", "4"]
TINY += ["--total-steps", "8", "--evaluation-episodes", "1", "--track", "off", "--env", "gumbelrl/Bandit-v0"]


def sweep_of(parameters, **options):
    return parse_sweep({"method": "random", "metric": METRIC, "parameters": parameters} | options)


def draws(entry, count=4000):
    parameter = parse_parameter("x", entry)
    generator = np.random.default_rng(0)
    return np.array([parameter.draw(generator) for _ in range(count)])


# The cumulative distribution function of each, from its definition in W&B's documentation.
NORMAL = [0.5 * (1 + math.erf(z / math.sqrt(2))) for z in (-1.0, 0.0, 1.5)]
DISTRIBUTIONS = [
    ({"min": 2.0, "max": 6.0}, [3.0, 5.0], [0.25, 0.75]),
    ({"distribution": "uniform", "min": 0, "max": 1}, [0.1, 0.9], [0.1, 0.9]),
    ({"distribution": "log_uniform_values", "min": "1e-4", "max": "1e-2"}, [1e-3], [0.5]),
    ({"distribution": "inv_log_uniform_values", "min": 1e-4, "max": 1e-2}, [1e-3], [0.5]),
    ({"distribution": "log_uniform", "min": -2, "max": 2}, [math.exp(-1), 1.0], [0.25, 0.5]),
    ({"distribution": "inv_log_uniform", "min": 0, "max": 4}, [math.exp(-1), math.exp(-3)], [0.75, 0.25]),
    ({"distribution": "normal", "mu": 3.0, "sigma": 2.0}, [1.0, 3.0, 6.0], NORMAL),
    ({"distribution": "log_normal", "mu": 0.0, "sigma": 1.0}, list(np.exp([-1.0, 0.0, 1.5])), NORMAL),
    ({"distribution": "beta", "a": 2, "b": 1}, [0.5], [0.25]),
    ({"distribution": "q_normal", "mu": 0.0, "sigma": 10.0, "q": 5}, [-2.5], [NORMAL[0] + 0.2426]),
]


@pytest.mark.parametrize(("entry", "points", "below"), DISTRIBUTIONS, ids=lambda each: str(each)[:60])
def test_draws_follow_the_distribution(entry, points, below):
    """Five standard errors of 4,000 draws, seeded: fails by chance once in 10⁵ of such seeds."""
    values = draws(entry)
    for point, expected in zip(points, below, strict=True):
        assert np.mean(values <= point) == pytest.approx(expected, abs=5 * math.sqrt(0.25 / len(values)))


def test_finite_parameters():
    assert set(draws({"min": 1, "max": 3})) == {1, 2, 3}
    assert set(draws({"distribution": "int_uniform", "min": 1, "max": 3})) == {1, 2, 3}
    assert set(draws({"values": ["a", "b"]})) == {"a", "b"}
    assert set(draws({"value": 7})) == {7}
    assert set(draws({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25})) == {0, 0.25, 0.5, 0.75, 1}
    weighted = draws({"values": [0, 1], "probabilities": [0.9, 0.1]})
    assert weighted.mean() == pytest.approx(0.1, abs=0.025)  # five standard errors


def test_a_grid_is_every_combination_in_the_order_of_the_file():
    sweep = sweep_of({"a": {"values": [1, 2]}, "b": {"value": "x"}, "c": {"min": 0, "max": 1}}, method="grid")
    found = [tuple(each.values()) for each in configurations(sweep)]
    assert found == [(1, "x", 0), (1, "x", 1), (2, "x", 0), (2, "x", 1)]
    assert configurations(sweep, count=3) == configurations(sweep)[:3]


def test_random_search_repeats_itself_but_no_configuration():
    sweep = sweep_of({"a": {"values": [1, 2, 3]}, "b": {"min": 0.0, "max": 1.0}}, run_cap=20)
    assert configurations(sweep) == configurations(sweep)
    assert len(configurations(sweep)) == 20
    assert configurations(sweep, seed=1) != configurations(sweep)
    small = sweep_of({"a": {"values": [1, 2, 3]}})
    assert sorted(each["a"] for each in configurations(small, count=50)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "bayes"}, "needs W&B's server"),
        ({"method": "magic"}, "unknown method 'magic'"),
        ({"method": None}, "unknown method"),
        ({"metric": None}, "needs `metric`"),
        ({"metric": {"name": "a", "goal": "best"}}, "unknown goal 'best'"),
        ({"parameters": {}}, "needs `parameters`"),
        ({"parameters": {"a": 3}}, "parameter a must have value"),
        ({"parameters": {"a": {"min": 3}}}, "parameter a must have value"),
        ({"parameters": {"a": {"values": []}}}, "values must be a list of at least one"),
        ({"parameters": {"a": {"min": 3, "max": 1}}}, "min 3 is above max 1"),
        ({"parameters": {"a": {"min": "low", "max": 1}}}, "min must be a number, got 'low'"),
        ({"parameters": {"a": {"distribution": "gamma"}}}, "unknown distribution of parameter a 'gamma'"),
        ({"parameters": {"a": {"distribution": "log_uniform_values", "min": 0, "max": 1}}}, "must be above 0"),
        ({"parameters": {"a": {"distribution": "int_uniform", "min": 0.5, "max": 1}}}, "must be whole"),
        ({"parameters": {"a": {"values": [1, 2], "probabilities": [1, 1]}}}, "2 probabilities that sum to 1"),
        ({"parameters": {"a": {"parameters": {}}}}, "is nested"),
        ({"run_cap": 0}, "run_cap must be"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, capsys, change, message):
    path = tmp_path / "bad.yaml"
    spec = {"method": "random", "metric": METRIC, "parameters": {"a": {"value": 1}}, "run_cap": 3} | change
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(RunError) as error:
        read_sweep(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_grid_needs_ends_and_random_search_a_number():
    with pytest.raises(RunError, match="a grid needs values of a, which is uniform"):
        configurations(sweep_of({"a": {"min": 0.0, "max": 1.0}}, method="grid"))
    with pytest.raises(RunError, match="give --count, or run_cap"):
        configurations(sweep_of({"a": {"min": 0.0, "max": 1.0}}))


def test_a_configuration_as_words():
    found = option_words({"learning_rate": 0.001, "hidden": [64, 64], "anneal": True, "native": False})
    assert found == ["--learning-rate=0.001", "--hidden", "64", "64", "--anneal", "--no-native"]


def test_the_example_asks_for_the_same_runs_here_and_with_wandb_agent():
    """`wandb agent` puts the fixed words and then `--name=value`, the name as it is in the file."""
    sweep = read_sweep(EXAMPLE)
    found = configurations(sweep)
    assert len(found) == 20
    for each in found:
        (here,) = requested_runs([*sweep.words, *option_words(each)])
        (there,) = requested_runs([*sweep.words, *(f"--{name}={value}" for name, value in each.items())])
        assert here == there
        assert (here.env, here.seeds, here.total_steps) == ("CartPole-v1", (0, 1, 2), 65536)
        assert here.agent_config.learning_rate == each["learning_rate"]
        assert (here.policy, here.temperature) == (each["policy"], each["temperature"])
    assert sweep.metric == "eval/sampled_return_mean"


def write_sweep(path, **options):
    spec = {
        "method": "random",
        "metric": METRIC,
        "run_cap": 20,
        "parameters": {
            "learning_rate": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
            "target_entropy": {"values": [0.1, 0.3]},
        },
    }
    path.write_text(yaml.safe_dump(spec | options))
    return path


def results_times(folder):
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/results.json")}


def test_twenty_configurations_are_interrupted_gone_on_with_and_ranked(tmp_path, capsys, monkeypatch):
    from gumbelrl.agents.experiment import Experiment

    path, folder = write_sweep(tmp_path / "sweep.yaml"), tmp_path / "sweep"
    words = [*TINY, "--sweep", str(path), "--output", str(folder)]
    monkeypatch.setattr(Experiment, "_plot", lambda self: None)  # most of the time
    evaluate, calls = Experiment._evaluate, []

    def interrupted(self):
        calls.append(self)
        if len(calls) == 8:  # trained and saved, not evaluated
            raise KeyboardInterrupt
        return evaluate(self)

    monkeypatch.setattr(Experiment, "_evaluate", interrupted)
    assert main(words) == 130
    assert "stopped with 7 of 20 finished" in capsys.readouterr().out
    done = results_times(folder)
    assert len(done) == 7

    assert main(words) == 0
    said = capsys.readouterr().out
    assert "7 finished already" in said
    after = results_times(folder)
    assert len(after) == 20
    assert {name: after[name] for name in done} == done  # not done again

    places = json.loads((folder / "ranking.json").read_text())["places"]
    values = [place["value"] for place in places]
    assert len(places) == 20
    assert values == sorted(values, reverse=True)
    for place in places:
        config = json.loads((folder / place["folder"] / "config.json").read_text())
        assert config["agent_config"]["learning_rate"] == pytest.approx(place["parameters"]["learning_rate"])
        assert config["agent_config"]["target_entropy"] == place["parameters"]["target_entropy"]
        (member,) = json.loads((folder / place["folder"] / "results.json").read_text())["members"]
        assert member["eval/sampled_return"] == pytest.approx(place["value"])
    lines = [line.split() for line in said.splitlines()]
    assert [line[0] for line in lines[-23:-3] if line] == [str(rank) for rank in range(1, 21)]
    assert f"best: --learning-rate={places[0]['parameters']['learning_rate']}" in said


def test_another_sweep_in_the_same_folder_is_refused(tmp_path, capsys, monkeypatch):
    from gumbelrl.agents.compare.run_set import RunSet

    monkeypatch.setattr(RunSet, "run", lambda self: None)
    path, folder = write_sweep(tmp_path / "sweep.yaml"), tmp_path / "sweep"
    words = [*TINY, "--sweep", str(path), "--output", str(folder)]
    assert main(words) == 0
    assert "not begun" not in capsys.readouterr().err
    assert main([*words, "--count", "3"]) == 2
    assert "holds another sweep" in capsys.readouterr().err


def test_a_wrong_parameter_is_refused_before_anything_is_made(tmp_path, capsys):
    folder = tmp_path / "sweep"
    path = write_sweep(tmp_path / "sweep.yaml", parameters={"learning_rate": {"values": [0.001, -1.0]}}, method="grid")
    assert main([*TINY, "--sweep", str(path), "--output", str(folder)]) == 2
    assert "learning_rate must be above 0" in capsys.readouterr().err
    assert not folder.exists()
