"""`--vary`: a sweep inside one process, each member what a run alone with its settings and its seed would be."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gumbelrl.agents.command_line import main, requested_runs
from gumbelrl.agents.compare.comparison import compare
from gumbelrl.agents.compare.runs import find_runs, read_run
from gumbelrl.agents.distributed.chunks import split_seeds
from gumbelrl.agents.distributed.group import Group
from gumbelrl.agents.distributed.parts import Parts
from gumbelrl.agents.errors import RunError
from gumbelrl.agents.experiment import Experiment, load_experiment
from gumbelrl.agents.results import variation_results
from gumbelrl.agents.run_config import RunConfig
from gumbelrl.agents.run_report import variation_lines
from gumbelrl.agents.tracking.base import read_variations
from gumbelrl.agents.tracking.sinks import LONGEST_NAME, run_labels
from gumbelrl.agents.variations import alone, member_names, parse_variations, show, variation_name

SMALL = ["--num-envs", "4", "--hidden", "8", "--episodes", "2", "--track", "off"]
ROLLOUTS = [*SMALL, "--rollout-steps", "8", "--total-steps", "256", "--log-interval", "64"]
ON_POLICY = [*ROLLOUTS, "--minibatches", "2"]
OFF_POLICY = [*SMALL, "--total-steps", "256", "--log-interval", "64", "--learning-starts", "32", "--batch-size", "8"]
VARY = ["--vary", "learning-rate=1e-3,1e-2", "--vary", "temperature=.5,linear:1.0:0.1"]
WORDS = {
    "actor-critic": [*ON_POLICY, *VARY],
    "a2c": [*ROLLOUTS, "--vary", "learning-rate=1e-3,1e-2", "--vary", "max-grad-norm=.1,10"],
    "ppo": [*ON_POLICY, "--vary", "learning-rate=1e-3,1e-2", "--vary", "clip=.1,.3"],
    "sac": [*OFF_POLICY, "--vary", "target-entropy=.1,.5", "--vary", "temperature=.5,2"],
}


def config_of(*words: object) -> RunConfig:
    (config,) = requested_runs([str(word) for word in words])
    return config


def train(folder: Path, *words: object) -> Path:
    Experiment(replace(config_of(*words), output=folder)).run()
    return folder


def results_of(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(Experiment, "_plot", lambda self: None)  # most of the time


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """A run of four variations and two seeds."""
    return train(tmp_path_factory.mktemp("varied") / "run", *WORDS["actor-critic"], "--seeds", "3", "4")


# Asking -------------------------------------------------------------------------------------------------------------


def test_all_combinations_with_all_seeds():
    config = config_of("--seeds", "0..1", "--vary", "learning-rate=3e-4,1e-3", "--vary", "temperature=1,learned:.5")
    assert config.seeds == (0, 1) * 4
    assert [list(each.values()) for each in config.variations[::2]] == [
        [3e-4, "1.0"],
        [3e-4, "learned:.5"],
        [1e-3, "1.0"],
        [1e-3, "learned:.5"],
    ]
    assert member_names(config)[-1] == "learning-rate=0.001 temperature=learned:.5"


def test_a_value_is_shown_in_as_few_digits_as_tell_it_from_any_other():
    assert [show(each) for each in (0.001, 1.0, 0.1 + 0.2, 1e-7, "linear:1.0:0.1")] == [
        *("0.001", "1", "0.30000000000000004", "1e-07", "linear:1.0:0.1")
    ]
    assert variation_name({"learning_rate": 0.0100000001}) != variation_name({"learning_rate": 0.01})


def test_a_run_without_variations_is_written_as_ever():
    config = config_of("--seeds", "0..2")
    assert "variations" not in config.to_json()
    assert RunConfig.from_json(config.to_json()) == replace(config, output=Path("None"))
    varied = config_of("--seeds", "0..2", "--vary", "discount=.9,.99")
    assert RunConfig.from_json(json.loads(json.dumps(varied.to_json()))) == replace(varied, output=Path("None"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vary", "learning-rate"], "--vary learning-rate: give a setting and its values, such as --vary learning-r"),
        (["--vary", "learning-rate=1e-3,"], "give a setting and its values"),
        (["--vary", "learning-rate=1e-3,fast"], "--vary learning-rate: fast is not a number"),
        (["--vary", "learning-rate=1e-3,-1"], "learning_rate must be above 0 and finite, got -1"),
        (["--vary", "learning-rate=1e-3,nan"], "learning_rate must be above 0 and finite, got nan"),
        (["--vary", "learning-rate=1e-3,.001"], "0.001 is given more than once"),
        (["--vary", "learning-rate=1", "--vary", "learning-rate=2"], "learning-rate is given more than once"),
        (["--vary", "learning-rat=1,2"], "unknown setting 'learning-rat': did you mean learning-rate"),
        (["--vary", "num-envs=4,8"], "num-envs cannot differ between members of one process; these can: learning-r"),
        (["--vary", "policy=gumbel,softmax"], "For a run of each value give them to --policy"),
        (["--vary", "seeds=1,2"], "every variation has all the seeds that --seeds names"),
        (["--vary", "temperature=1,0"], "--vary temperature=0.0: a temperature must be finite and at least"),
        (["--vary", "temperature=1,learned:1"], "a learned temperature cannot stand beside others in one process"),
        (["--vary", "temperature=1,2", "--temperature", "1", "2"], "both name several"),
        (["--agent", "ppo", "--vary", "temperature=1,2"], "--agent ppo has no relaxed sample and takes none"),
        (["--agent", "sac", "--vary", "epsilon=0,.1"], "epsilon 0 turns off what members of one process share"),
        (["--vary", "discount=.9,.99", "--stop-at-return", "9"], "--stop-at-return waits for all members at once"),
        (["--vary", "discount=.9,.99", "--seeds", "1", "1"], "seed 1 is given more than once"),
    ],
)
def test_what_cannot_vary_is_refused_and_nothing_is_made(tmp_path, capsys, words, message):
    assert main([*words, "--track", "off", "--output", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refusal_names_what_can_vary_as_the_command_line_has_it(capsys):
    main(["--vary", "hidden=4,8"])
    said = capsys.readouterr().err
    able = re.search(r"these can: ([\w, -]+)\.", said)
    assert able is not None
    for name in able[1].split(", "):
        assert config_of("--vary", f"{name}=.5,.9").variations


def test_an_agent_without_temperature_beside_others_has_the_rest_of_the_variations(tmp_path):
    words = ["--agent", "actor-critic", "ppo", "--vary", "learning-rate=1e-3,1e-2", "--vary", "temperature=1,2"]
    first, second = requested_runs(words)
    assert (len(first.variations), len(second.variations)) == (4, 2)
    assert second.variations[0] == {"learning_rate": 1e-3}
    assert requested_runs([*words[:3], "--vary", "temperature=1,2"])[1].variations == ()


def test_variations_of_a_sweep_file_are_refused(tmp_path, capsys):
    (tmp_path / "sweep.yaml").write_text(
        "method: grid\nmetric: {name: eval/sampled_return_mean, goal: maximize}\nparameters: {trace: {values: [0.5]}}\n"
    )
    words = ["--sweep", tmp_path / "sweep.yaml", "--output", tmp_path / "out", "--vary", "discount=.9,.99"]
    assert main([str(word) for word in words]) == 2
    assert "--vary trains and ranks its values by itself, without --sweep" in capsys.readouterr().err


# Training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", WORDS)
def test_a_member_is_a_run_alone_with_its_settings_and_seed(tmp_path, agent):
    """Equal up to the order of additions in a batched product, which 256 steps hardly spread."""
    words = ["--agent", agent, *WORDS[agent]]
    config = config_of(*words, "--seeds", "3", "4")
    Experiment(replace(config, output=tmp_path / "all")).run()
    found, told = read_variations(tmp_path / "all" / "metrics.jsonl"), results_of(tmp_path / "all")
    assert len(told["members"]) == 8
    for member in (0, 5, 6):
        seed, name = config.seeds[member], member_names(config)[member]
        folder = tmp_path / str(member)
        Experiment(replace(alone(config, member), seeds=(seed,), output=folder)).run()
        for column, values in read_variations(folder / "metrics.jsonl")[""][seed].items():
            if not column.startswith("time/"):
                ours = torch.from_numpy(found[name][seed][column])
                torch.testing.assert_close(ours, torch.from_numpy(values), rtol=1e-3, atol=1e-4, equal_nan=True)
        (expected,) = results_of(folder)["members"]
        assert told["members"][member]["steps"] == expected["steps"]
        assert told["members"][member]["variation"] == name
        assert told["members"][member]["settings"] == config.variations[member]


@pytest.mark.parametrize("agent", [pytest.param(each, marks=[pytest.mark.slow] * (each != "a2c")) for each in WORDS])
def test_compiled_members_with_settings_of_their_own_equal_eager_ones(tmp_path, agent):
    words = ["--agent", agent, *WORDS[agent], "--seeds", "3"]
    config = config_of(*words, "--diagnostics-interval", "0") if agent in ("actor-critic", "sac") else config_of(*words)
    eager, compiled = (
        Experiment(replace(config, compile=mode, output=tmp_path / mode)).trainer for mode in ("off", "on")
    )
    for _ in range(3 if agent != "sac" else 12):
        expected, found = eager.iterate(), compiled.iterate()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(compiled.agent.state_dict(), eager.agent.state_dict(), rtol=1e-4, atol=1e-5)
    first, *_, last = compiled.agent.policy(torch.ones(4, 1, eager.observation.shape[-1]), None).logits
    assert not torch.equal(first, last)  # one seed: the settings set them apart


def test_what_was_interrupted_ends_as_if_it_had_not_been(tmp_path):
    words = [*WORDS["actor-critic"], "--seeds", "3"]
    whole = train(tmp_path / "whole", *words)
    stopped = Experiment(replace(config_of(*words), output=tmp_path / "stopped"))
    stopped._open_sinks()
    for _ in range(3):
        stopped.trainer.iterate()
    stopped.save()
    stopped.sinks.close(failed=False)
    assert main(["--resume", str(tmp_path / "stopped")]) == 0
    ours, theirs = (load_experiment(folder).store.latest().tensors for folder in (tmp_path / "stopped", whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("change", ["other", "none"])
def test_a_checkpoint_of_other_variations_is_not_gone_on_with(tmp_path, varied, change):
    folder = Path(shutil.copytree(varied, tmp_path / "run"))
    data = json.loads((folder / "config.json").read_text())
    if change == "other":
        data["variations"][0]["learning_rate"] = 0.5
    else:
        del data["variations"]
        data["seeds"] = list(range(8))
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(RunError, match=r"the checkpoint in .* is of (variations|seeds)"):
        load_experiment(folder)


def test_parts_become_the_run_of_one_process(tmp_path, varied, monkeypatch):
    """Three parts of eight members, whose bounds are not those of variations."""
    monkeypatch.setattr("gumbelrl.agents.distributed.merge._plot", lambda folder, config: None)
    config = config_of(*WORDS["actor-critic"], "--seeds", "3", "4")
    folder = tmp_path / "run"
    Parts.create(replace(config, output=folder), Group())
    parts = Parts(config, folder, split_seeds(config.seeds, 3))
    assert [len(part.variations) for part in parts.configs] == [3, 3, 2]
    parts.train(Group())
    for name in ("config.json", "results.json"):
        ours, theirs = (json.loads((each / name).read_text()) for each in (folder, varied))
        for key in ("variations", "seeds"):
            assert ours.get(key) == theirs.get(key)
    ours, theirs = (results_of(each)["members"] for each in (folder, varied))
    assert [(m["seed"], m["variation"]) for m in ours] == [(m["seed"], m["variation"]) for m in theirs]
    ours, theirs = (load_experiment(each).store.latest() for each in (folder, varied))
    assert ours.metadata["run"] == theirs.metadata["run"]
    for name, tensor in theirs.tensors.items():
        torch.testing.assert_close(ours.tensors[name], tensor, rtol=1e-3, atol=1e-4)


# Telling ------------------------------------------------------------------------------------------------------------


def test_the_report_has_a_line_a_variation_and_the_best(tmp_path, capsys):
    assert main([*WORDS["actor-critic"], "--seeds", "3", "4", "--output", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "members: 8 (4 variations × 2 seeds)" in said
    assert re.search(r"best +\d", said)  # while training
    ordered = variation_results(results_of(tmp_path / "run")["members"])
    means = [each.returns["sampled"][0] for each in ordered]
    assert means == sorted(means, reverse=True)
    lines = [line.split() for line in said.splitlines()]
    start = next(index for index, line in enumerate(lines) if line[:3] == ["learning-rate", "temperature", "seeds"])
    for line, each in zip(lines[start + 1 :], ordered, strict=False):
        assert line[:3] == [show(each.settings["learning_rate"]), each.settings["temperature"], "2"]
    best = ordered[0].settings
    assert f"best: --learning-rate {show(best['learning_rate'])} --temperature {best['temperature']}" in said
    card = (tmp_path / "run" / "README.md").read_text()
    assert "8 members, 4 variations of the settings" in card
    assert f'value: "{means[0]:.2f} +/-' in card


def test_an_evaluation_says_whose_it_is(varied, capsys):
    assert main(["--evaluate", str(varied), "--episodes", "2"]) == 0
    told = json.loads((varied / "evaluation.json").read_text())["members"]
    assert [(member["seed"], member["variation"]) for member in told][:3] == [
        *((seed, "learning-rate=0.001 temperature=0.5") for seed in (3, 4)),
        (3, "learning-rate=0.001 temperature=linear:1.0:0.1"),
    ]
    assert capsys.readouterr().out.count("learning-rate=0.01 temperature=0.5") == 1


def test_a_comparison_takes_a_variation_for_a_run(tmp_path, varied):
    """One of the variations has more seeds in a run of its own; another setting has a run of its own."""
    rest = [*ON_POLICY, "--learning-rate", "1e-3"]
    more = train(tmp_path / "more", *rest, "--temperature", "0.5", "--seeds", "5")
    other = train(tmp_path / "other", *rest, "--temperature", "2.0", "--seeds", "3", "4")
    found = compare([varied, more, other])
    assert not found.left_out
    seeds = {each.label: each.variant.seeds for each in found.environments[0].summaries}
    assert seeds == {
        "gumbel · temperature=0.5 · learning-rate=0.001": [3, 4, 5],
        "gumbel · temperature=linear:1.0:0.1 · learning-rate=0.001": [3, 4],
        "gumbel · temperature=0.5 · learning-rate=0.01": [3, 4],
        "gumbel · temperature=linear:1.0:0.1 · learning-rate=0.01": [3, 4],
        "gumbel · temperature=2.0 · learning-rate=0.001": [3, 4],
    }
    told = results_of(varied)
    ours = found.environments[0].summaries[2].variant
    assert ours.final("sampled").tolist() == [each["eval/sampled_return"] for each in told["members"][4:6]]
    assert sum(run.results["train_seconds"] for run in find_runs([varied])) == pytest.approx(
        told["train_seconds"], abs=0.01
    )


def test_results_of_other_variations_are_unreadable(tmp_path):
    folder = train(tmp_path / "run", *ON_POLICY, "--vary", "discount=.9,.99")
    data = results_of(folder)
    data["members"].reverse()
    (folder / "results.json").write_text(json.dumps(data))
    run = read_run(folder)
    assert run is not None
    assert (run.status, run.reason) == (
        "unreadable",
        "ValueError: results.json is of other variations than config.json",
    )


def test_trackers_are_told_each_members_own_settings(tmp_path):
    config = config_of(*WORDS["actor-critic"], "--seeds", "3", "4")
    labels = run_labels(tmp_path / "run", config, [str(each) for each in range(8)])
    assert len({label.name for label in labels}) == 8
    assert labels[7].name.endswith("-learning-rate=0.01-temperature=linear:1.0:0.1-seed4")
    assert len({label.group for label in labels}) == 4  # seeds of a variation fold into one curve
    assert labels[7].config["agent_config"]["learning_rate"] == 0.01
    assert labels[7].config["temperature"] == "linear:1.0:0.1"
    assert labels[7].config["seeds"] == [3, 4]
    assert "variations" not in labels[7].config
    many = [word for name in config.agent_config.per_member for word in ("--vary", f"{name}=.12345,.54321")]
    long = run_labels(tmp_path / "run", config_of(*many), [str(each) for each in range(256)])
    assert max(len(label.name) for label in long) <= LONGEST_NAME
    assert len({label.group for label in long}) == 256


def test_a_name_is_asked_once():
    with pytest.raises(RunError, match="discount is given more than once"):
        parse_variations(["discount=.9", "--discount=.8"])


@pytest.mark.parametrize(
    ("num_seeds", "said"), [(1, "best: --learning-rate 0.1  (sampled return 12.0)"), (2, "12.0 ± 0.0")]
)
def test_one_seed_has_no_spread(num_seeds, said):
    returns = {f"eval/{kind}_return": 12.0 for kind in ("sampled", "greedy")}
    own = {"variation": "learning-rate=0.1", "settings": {"learning_rate": 0.1}, "solved_at": None, **returns}
    lines = variation_lines(variation_results([{"seed": seed, **own} for seed in range(num_seeds)]))
    assert ("±" in "".join(lines)) == (num_seeds > 1)
    assert said in lines[-1]
