"""Weights & Biases, offline: what `wandb leet` reads back, and that it can break without stopping the training."""

import ast
import functools
import io
import json
import math
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from gumbelrl.agents.checkpoint import CheckpointStore
from gumbelrl.agents.command_line import main
from gumbelrl.agents.tracking import wandb_runs, wandb_sink
from gumbelrl.agents.tracking.base import read_rows
from gumbelrl.agents.tracking.wandb_runs import WandbRuns
from gumbelrl.agents.tracking.wandb_sink import RunLabel, WandbSink

TRAIN = Path(__file__).parents[3] / "train.py"
COMMON = ["--evaluation-episodes", "2"]
TINY = [*COMMON, "--num-envs", "4", "--rollout-steps", "8", "--epochs", "1", "--minibatches", "1", "--hidden", "8"]
SMALL = [*COMMON, "--num-envs", "8", "--rollout-steps", "16", "--epochs", "2", "--minibatches", "2", "--hidden", "16"]
WANDB = shutil.which("wandb", path=str(Path(sys.executable).parent)) or shutil.which("wandb")
PROMISED = {
    "train": {"return", "length", "episodes", "critic_loss", "value"},
    "gradient": {"norm", "bias", "variance", "cosine"},
    "policy": {"entropy", "kl", "temperature", "soft_hard_gap"},
    "time": {"seconds", "steps_per_second"},
    "eval": {"sampled_return", "sampled_return_std", "greedy_return", "greedy_return_std"},
}


@functools.cache  # of finished runs
def inspect(run, *options):
    command = [WANDB, "leet", "inspect", *options, "--json", str(run)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def summary(run):
    return json.loads(inspect(run, "--summary"))


def records(run, kind):
    return [record[kind] for line in inspect(run).splitlines() if (record := json.loads(line))["type"] == kind]


def history(run):
    """Step -> the row there; a step that comes twice is an error."""
    rows = [record["item"] for record in records(run, "history")]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "a step out of order, or twice"
    assert [row["_step"] for row in rows] == steps
    return dict(zip(steps, rows, strict=True))


def offline_runs(folder):
    """Run id -> folders of its offline logs."""
    found = {}
    for path in sorted((folder / "wandb").glob("offline-run-*")):
        found.setdefault(path.name.rpartition("-")[2], []).append(path)
    return found


def label(run_id="id000001", **options):
    options = {"project": "p", "group": "g", "job_type": "train", "name": "n", "config": {}} | options
    return RunLabel(run_id=run_id, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracked") / "run"
    words = ["--seeds", "5", "6", "--total-steps", "256", "--log-interval", "32", "--evaluation-interval", "96"]
    words += ["--video", "--tags", "mine", "--notes", "why", "--project", "elsewhere", "--diagnostics-interval", "1"]
    assert main([*TINY, *words, "--track", "offline", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def runs(folder):
    """Seed -> (summary, folder of the log)."""
    found = [(summary(paths[0]), paths[0]) for paths in offline_runs(folder).values()]
    return {each["config"]["seed"]: (each, path) for each, path in found}


def test_each_member_is_a_finished_run_of_one_group(folder, runs):
    assert runs.keys() == {5, 6}
    for seed, (found, path) in runs.items():
        assert (found["state"], found["exit_code"]) == ("finished", 0)
        assert found["name"] == f"CartPole-v1-actor-critic-gumbel-seed{seed}"
        assert (found["project"], found["notes"]) == ("elsewhere", "why")
        assert set(found["tags"]) == {"CartPole-v1", "actor-critic", "gumbel", "linear", "mine"}
        config = found["config"]
        assert (config["env"], config["policy"], config["critic"]) == ("CartPole-v1", "gumbel", "linear")
        assert config["agent_config"]["hidden"] == [8]
        assert config["seeds"] == [5, 6]
        (run,) = records(path, "run")
        assert (run["run_group"], run["job_type"]) == ("CartPole-v1-actor-critic-gumbel-run", "train")


def test_every_promised_key_is_there_at_its_steps(folder, runs):
    """The rows of the log are those of the JSON lines, training and evaluation joined by their step."""
    trained, evaluated = read_rows(folder / "metrics.jsonl"), read_rows(folder / "evaluations.jsonl")
    assert [row["step"] for row in trained if row["seed"] == 6] == list(range(32, 257, 32))
    assert [row["step"] for row in evaluated if row["seed"] == 6] == [96, 192, 256]
    for seed, (_, path) in runs.items():
        found = history(path)
        assert list(found) == list(range(32, 257, 32))
        for row in (row for row in [*trained, *evaluated] if row["seed"] == seed):
            for name, value in row.items():
                if name != "seed" and not isinstance(value, str):
                    number = math.nan if value is None else value
                    assert float(found[row["step"]][name]) == pytest.approx(number, nan_ok=True), name
        ends = {name for row in found.values() for name in row}
        for prefix, names in PROMISED.items():
            assert {f"{prefix}/{name}" for name in names} <= ends


def test_environment_steps_are_the_horizontal_axis(runs):
    defined = {m.get("name") or m["glob_name"]: m.get("step_metric") for m in records(runs[5][1], "metric")}
    assert defined.pop("step") is None
    assert defined == {f"{prefix}/*": "step" for prefix in PROMISED}


def test_histograms_and_media_are_there(folder, runs):
    counted = {row["step"]: row for row in read_rows(folder / "histograms.jsonl") if row["seed"] == 6}
    for step, row in history(runs[6][1]).items():
        assert row["policy/probs/0._type"] == "histogram"
        assert row["policy/probs/0.values"] == counted[step]["policy/probs/0"]
        assert len(row["policy/probs/0.bins"]) == 33
    path = runs[5][1]
    rows = history(path)
    media = {name: row[name] for row in rows.values() for name in row if name.endswith("_type")}
    assert media["eval/video._type"] == "video-file"
    assert media["eval/learning_curve._type"] == "image-file"
    for step in (96, 192, 256):
        video = path / "files" / rows[step]["eval/video.path"]
        ours = folder / next(r["eval/video"] for r in read_rows(folder / "evaluations.jsonl") if r["step"] == step)
        assert video.read_bytes() == ours.read_bytes()


def test_config_checkpoint_and_report_are_artifacts_whose_files_are_there(folder, runs):
    found = {artifact["type"]: artifact for artifact in records(runs[5][1], "artifact")}
    assert found.keys() == {"config", "model", "report"}
    held = {kind: {item["path"] for item in a["manifest"]["contents"]} for kind, a in found.items()}
    assert held["config"] == {"config.json"}
    assert held["model"] == {"checkpoint.json", "tensors.safetensors"}
    assert held["report"] == {"results.json", "learning_curve.png", "README.md"}
    for artifact in found.values():
        for item in artifact["manifest"]["contents"]:
            assert Path(item["local_path"]).is_absolute()
            assert Path(item["local_path"]).is_relative_to(folder.resolve())
            assert Path(item["local_path"]).stat().st_size == int(item["size"])
    assert set(found["model"]["aliases"]) == {"latest", "step-256"}
    assert records(runs[6][1], "artifact") == []  # the members share their files


def test_the_summary_holds_the_evaluation_and_the_mean_over_members(folder, runs):
    members = json.loads((folder / "results.json").read_text())["members"]
    mean = sum(member["eval/sampled_return"] for member in members) / 2
    for member in members:
        found = runs[member["seed"]][0]["summary"]
        assert found["eval/greedy_return"] == pytest.approx(member["eval/greedy_return"])
        assert found["eval/sampled_return"] == pytest.approx(member["eval/sampled_return"])
        assert found["eval/sampled_return_mean"] == pytest.approx(mean)
        assert found["gradient/norm"] > 0


def test_an_evaluation_is_a_run_of_its_own_in_the_same_group(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    words = ["--evaluate", str(tmp_path / "run"), "--episodes", "2", "--video", "--track", "offline"]
    assert main(words) == 0
    found = [paths[0] for paths in offline_runs(tmp_path / "run").values()]
    named = {summary(path)["name"]: path for path in found}
    assert named.keys() == {f"CartPole-v1-actor-critic-gumbel-seed{seed}-evaluate" for seed in (5, 6)}
    path = named["CartPole-v1-actor-critic-gumbel-seed5-evaluate"]
    (run,) = records(path, "run")
    assert (run["run_group"], run["job_type"]) == ("CartPole-v1-actor-critic-gumbel-run", "evaluate")
    rows = history(path)
    assert list(rows) == [256]
    assert rows[256]["eval/greedy_video._type"] == "video-file"
    members = json.loads((folder / "results.json").read_text())["members"]
    assert float(rows[256]["eval/greedy_return"]) == pytest.approx(members[0]["eval/greedy_return"])


@pytest.fixture
def without_pictures(monkeypatch):
    monkeypatch.setattr("gumbelrl.agents.compare.plots.save_plots", lambda comparison, folder: None)


def test_a_comparison_is_a_run_that_holds_the_report_and_says_what_it_is_made_from(tmp_path, without_pictures):
    folder = tmp_path / "both"
    words = [*TINY, "--policy", "gumbel", "softmax", "--total-steps", "64", "--notes", "why", "--tags", "mine"]
    assert main([*words, "--track", "offline", "--output", str(folder)]) == 0
    ((path,),) = offline_runs(folder).values()
    found = summary(path)
    assert (found["name"], found["state"]) == ("CartPole-v1-comparison", "finished")
    assert found["tags"] == ["CartPole-v1", "mine", "both"]
    assert found["notes"].startswith("why\n\nIn CartPole-v1 nothing can be concluded")
    (run,) = records(path, "run")
    assert (run["run_group"], run["job_type"]) == ("both", "compare")

    members = {name for each in folder.glob("*/") for name in offline_runs(each)}
    assert len(members) == 2
    (artifact,) = records(path, "artifact")
    assert (artifact["type"], artifact["name"]) == ("comparison", f"comparison-{found['run_id']}")
    made_from = json.loads(artifact["metadata"])["made_from"]
    assert set(made_from) == {f"report-{name}:step-64" for name in members}
    for item in artifact["manifest"]["contents"]:
        assert Path(item["local_path"]).read_bytes() == (folder / item["path"]).read_bytes()
    assert {item["path"] for item in artifact["manifest"]["contents"]} == {"report.html", "comparison.json"}

    compared = json.loads((folder / "comparison.json").read_text())["environments"]["CartPole-v1"]["variants"]
    for label, values in found["summary"]["CartPole-v1"].items():
        assert values["interquartile_mean"] == pytest.approx(compared[label]["final_return"]["sampled"]["value"])
    ((log,),) = offline_runs(next(folder.glob("1_*"))).values()
    assert "both" in summary(log)["tags"]  # by which runs and comparison are found together


@pytest.mark.slow
def test_comparing_again_is_another_version_and_not_another_run(tmp_path, without_pictures):
    folder = tmp_path / "both"
    words = [*TINY, "--policy", "gumbel", "softmax", "--total-steps", "64", "--track", "offline"]
    assert main([*words, "--output", str(folder)]) == 0
    ((run_id, (first,)),) = offline_runs(folder).items()
    assert main(["--resume", str(folder)]) == 0
    ((again, (second,)),) = offline_runs(folder).items()
    assert again == run_id
    assert second != first
    assert summary(second)["state"] == "finished"


def test_online_a_comparison_names_the_reports_of_its_runs_as_its_inputs(tmp_path, without_pictures, monkeypatch):
    orders = []

    class Recorder(WandbSink):
        def __init__(self, folder, **options):
            self.warnings, self.threads, self.stopped = [], [], False
            self.orders = queue.SimpleQueue()

        def _order(self, name, **arguments):
            orders.append((name, arguments))

    monkeypatch.setattr(wandb_sink, "WandbSink", Recorder)
    monkeypatch.setattr("gumbelrl.agents.compare.upload.WandbSink", Recorder)
    folder = tmp_path / "both"
    words = [*TINY, "--policy", "gumbel", "softmax", "--total-steps", "64", "--track", "online"]
    assert main([*words, "--output", str(folder)]) == 0
    (used,) = [arguments["artifacts"] for name, arguments in orders if name == "use"]
    stores = [CheckpointStore(each / "checkpoints") for each in sorted(folder.glob("*_*/"))]
    assert used == [f"report-{store.metadata(64)['run_ids'][0]}:step-64" for store in stores]


def test_an_untracked_comparison_is_not_handed_over(tmp_path, without_pictures, capsys):
    words = [*TINY, "--policy", "gumbel", "softmax", "--total-steps", "64", "--track", "off"]
    assert main([*words, "--output", str(tmp_path / "both")]) == 0
    assert "W&B" not in capsys.readouterr().out
    assert not (tmp_path / "both" / "wandb").exists()


# Going on ------------------------------------------------------------------------------------------------------------


def start(*words, **options):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    command = [sys.executable, str(TRAIN), *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes, **options)


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_one_run_without_gap_or_repetition(tmp_path):
    """Rows that the killed process wrote after its last checkpoint are in no log twice."""
    folder = tmp_path / "run"
    words = ["--seeds", "0", "1", "--total-steps", "8000", "--checkpoint-interval", "1000", "--log-interval", "640"]
    process = start(*SMALL, *words, "--evaluation-interval", "1500", "--track", "offline", "--output", folder)
    store, deadline = CheckpointStore(folder / "checkpoints"), time.monotonic() + 90
    while len(store.steps()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "results.json").exists()
    ids = json.loads((store.folder(store.steps()[-1]) / "checkpoint.json").read_text())["metadata"]["run_ids"]
    assert main(["--resume", str(folder)]) == 0

    assert set(offline_runs(folder)) == set(ids)
    for seed, run_id in enumerate(ids):
        (path,) = offline_runs(folder)[run_id]  # what the killed process left is replaced
        assert summary(path)["state"] == "finished"
        found = history(path)
        rows = [row for row in read_rows(folder / "metrics.jsonl") if row["seed"] == seed]
        assert [row["step"] for row in rows] == [*range(128, 8064, 640), 8064]
        assert set(found) >= {row["step"] for row in rows}
        for row in rows:
            assert float(found[row["step"]]["policy/entropy"]) == pytest.approx(row["policy/entropy"])
            assert found[row["step"]]["policy/probs/1._type"] == "histogram"
        evaluated = [row["step"] for row in read_rows(folder / "evaluations.jsonl") if row["seed"] == seed]
        assert evaluated == sorted(set(evaluated))
        assert evaluated[-1] == 8064
        assert [step for step, row in found.items() if "eval/greedy_return" in row] == evaluated


class FakeRun:
    """A run that a server knows up to a step."""

    offline = False
    id = "id000001"
    dir = "nowhere/files"

    def __init__(self, starting_step):
        self.starting_step, self.rows, self.used, self.logged = starting_step, [], [], []

    def define_metric(self, *args, **kwargs): ...

    def log(self, data, *, step):
        self.rows.append((step, data))

    def use_artifact(self, artifact):
        if artifact == "absent":
            raise ValueError("no such artifact")
        self.used.append(artifact)

    def log_artifact(self, artifact, *, aliases):
        self.logged.append((artifact.type, aliases))

    def finish(self, *, exit_code):
        self.exit_code = exit_code


def open_runs(folder, *, mode, history=()):
    """Return the runs, in this process, and the list that holds what the user is told."""
    told = []
    runs = WandbRuns(told.append)
    runs.open(folder=str(folder), mode=mode, labels=[asdict(label())], history=history)
    return runs, told


def test_online_what_the_server_has_is_not_sent_twice_and_what_it_lacks_is(tmp_path, monkeypatch):
    import wandb

    run, asked = FakeRun(starting_step=201), {}
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    monkeypatch.setattr(wandb, "init", lambda **options: asked.update(options) or run)
    runs, told = open_runs(tmp_path, mode="online", history=[(0, {"step": s, "a": 1.0}, {}) for s in (100, 200, 300)])
    for step in (400, 500):
        runs.write(member=0, row={"step": step, "a": 2.0}, histograms={})
    (tmp_path / "config.json").write_text("{}")
    for kind, metadata in (("config", {}), ("model", {"step": 500})):
        runs.files(kind=kind, paths=[str(tmp_path / "config.json")], metadata=metadata)
    runs.finish(exit_code=1)
    assert (asked["mode"], asked["resume"], asked["id"]) == ("online", "allow", "id000001")
    assert [step for step, _ in run.rows] == [300, 400, 500]
    assert [artifact.type for artifact in run.used] == ["config"]  # lineage: config -> run -> model
    assert run.logged == [("model", ["latest", "step-500"])]
    assert run.exit_code == 1
    assert told == []


def test_inputs_are_named_online_and_one_that_is_not_there_is_told(tmp_path, monkeypatch):
    import wandb

    run = FakeRun(0)
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    monkeypatch.setattr(wandb, "init", lambda **options: run)
    runs, told = open_runs(tmp_path, mode="online")
    runs.use(artifacts=["model-a:step-1", "absent", "model-b:step-1"])
    assert run.used == ["model-a:step-1", "model-b:step-1"]
    assert told == ["W&B does not know what this was made from: absent (ValueError: no such artifact)"]


def test_an_offline_log_replaces_what_a_server_has(tmp_path, monkeypatch):
    import wandb

    asked = {}
    monkeypatch.setattr(wandb, "init", lambda **options: asked.update(options) or FakeRun(0))
    open_runs(tmp_path, mode="offline")
    assert (asked["mode"], asked["resume"]) == ("offline", None)


def test_runs_that_another_process_still_keeps_are_waited_for(tmp_path):
    """As where a training is gone on with right after it was killed."""
    path = tmp_path / ".id000001.lock"
    held = wandb_runs.hold(path, timeout=0)
    assert held is not None
    assert wandb_runs.hold(path, timeout=0.1) is None
    timer = threading.Timer(0.3, os.close, [held])
    timer.start()
    ours = wandb_runs.hold(path, timeout=30)
    timer.join()
    assert ours is not None
    os.close(ours)


# Going wrong ---------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_marked_so_with_its_last_metrics(tmp_path, capsys, monkeypatch):
    from gumbelrl.agents.experiment import Experiment

    def fail(self):
        raise ArithmeticError("boom")

    monkeypatch.setattr(Experiment, "save", fail)
    folder = tmp_path / "run"
    words = ["--total-steps", "640", "--log-interval", "32", "--checkpoint-interval", "320", "--track", "offline"]
    with pytest.raises(ArithmeticError, match="boom"):
        main([*TINY, *words, "--output", str(folder)])
    ((path,),) = offline_runs(folder).values()
    found = summary(path)
    assert (found["state"], found["exit_code"]) == ("failed", 1)
    assert found["summary"]["step"] == 320
    assert found["summary"]["gradient/norm"] > 0


def check_complete(folder, steps=(32, 64)):
    assert [row["step"] for row in read_rows(folder / "metrics.jsonl")] == list(steps)
    assert (folder / "results.json").exists()


def train(folder, *words):
    return main([*TINY, "--total-steps", "64", "--log-interval", "32", "--output", str(folder), *words])


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Return a function that puts a module in the place of wandb for the processes that are started."""

    def put(code):
        place = tmp_path / "stand-in"
        place.mkdir()
        (place / "wandb.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(place))

    return put


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ModuleNotFoundError('No module named wandb')", "ModuleNotFoundError: No module named wandb"),
        ("def init(**_): raise OSError('no space')\nSettings = lambda **_: None", "OSError: no space"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import os; os._exit(3)", "its process ended by itself, with status 3"),
    ],
    ids=["absent", "failing", "leaving", "crashing"],
)
def test_a_wandb_that_does_not_work_is_one_warning(tmp_path, stand_in, code, reason):
    stand_in(code)
    with pytest.warns(UserWarning, match="W&B stopped") as told:
        assert train(tmp_path / "run", "--track", "offline") == 0
    assert [str(each.message) for each in told] == [f"W&B stopped ({reason}); metrics.jsonl stays complete"]
    check_complete(tmp_path / "run")


def test_no_python_to_start_is_one_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.warns(UserWarning, match=r"W&B stopped \(FileNotFoundError: ") as told:
        assert train(tmp_path / "run", "--track", "offline") == 0
    assert len(told) == 1
    check_complete(tmp_path / "run")


def test_no_permission_to_write_is_one_warning(tmp_path, monkeypatch):
    """A file stands where the folder would be: root, as which tests may run, may write anywhere else."""
    from gumbelrl.agents.experiment import Experiment

    folder = tmp_path / "run"
    original = Experiment._open_sinks

    def obstruct(self):
        (self.folder / "wandb").write_text("in the way")
        original(self)

    monkeypatch.setattr(Experiment, "_open_sinks", obstruct)
    with pytest.warns(UserWarning, match=r"W&B stopped \(.*Error") as told:
        assert train(folder, "--track", "offline") == 0
    assert len(told) == 1
    check_complete(folder)


@pytest.mark.slow
def test_a_full_disk_is_one_warning(tmp_path):
    """`wandb/` on a file system of its own, with 8 KiB above what is kept free."""
    folder = tmp_path / "run"
    words = [*TINY, "--total-steps", "512", "--log-interval", "32", "--output", folder, "--track", "offline"]
    code = (
        "import subprocess, sys\n"
        "from gumbelrl.agents.command_line import main\n"
        "from gumbelrl.agents.experiment import Experiment\n"
        "original = Experiment._open_sinks\n"
        "def small(self):\n"
        "    place = self.folder / 'wandb'\n"
        "    place.mkdir()\n"
        "    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1032k', 'tmpfs', str(place)], check=True)\n"
        "    original(self)\n"
        "Experiment._open_sinks = small\n"
        f"sys.exit(main({[str(word) for word in words]}))\n"
    )
    # In a mount namespace of its own, which ends with the process.
    able = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], capture_output=True)
    if able.returncode:
        pytest.skip("needs the right to mount")
    done = subprocess.run(["unshare", "-m", sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("W&B stopped (OSError: [Errno 28] No space left on device") == 1
    assert "Traceback" not in done.stderr
    check_complete(folder, range(32, 513, 32))


def children(parent):
    """Return the process ids below one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find wandb's process")
@pytest.mark.parametrize("killed", ["wandb's process", "ours"])
def test_a_killed_process_is_one_warning(tmp_path, killed):
    folder = tmp_path / "run"
    words = ["--total-steps", "30000", "--log-interval", "512", "--track", "offline", "--output", folder]
    process = start(*SMALL, *words)
    deadline = time.monotonic() + 90
    while not list(folder.glob("wandb/offline-run-*/*.wandb")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (ours,) = children(process.pid)
    for each in {"wandb's process": children(ours), "ours": [ours]}[killed]:
        os.kill(each, signal.SIGKILL)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert errors.count("W&B stopped (") == 1
    assert "Traceback" not in errors
    assert "solved at step" in output
    check_complete(folder, [*range(128, 30_080, 512), 30_080])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "state"),
    [(signal.SIGKILL, -signal.SIGKILL, ("failed", 137)), (signal.SIGINT, 130, ("finished", 0))],
    ids=["killed", "Ctrl-C"],
)
def test_a_signal_to_the_whole_process_group_leaves_a_whole_log(tmp_path, number, status, state):
    """As a terminal sends it: the group is that of the training, and all that it logged is there afterwards."""
    folder = tmp_path / "run"
    words = ["--total-steps", "10000000", "--compile", "off", "--log-interval", "128", "--checkpoint-interval", "128"]
    process = start(*SMALL, *words, "--track", "offline", "--output", folder, start_new_session=True)
    deadline = time.monotonic() + 90
    while not list(folder.glob("wandb/offline-run-*/*.wandb")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(1.0)  # some rows more
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status, errors
    ((path,),) = offline_runs(folder).values()
    lock = wandb_runs.hold(next((folder / "wandb").glob(".*.lock")), timeout=60)  # once the other process has ended
    assert lock is not None
    os.close(lock)
    found = json.loads(inspect(path, "--summary"))
    assert (found["state"], found["exit_code"]) == state
    (environment, *_) = records(path, "environment")
    assert environment["program"] == str(TRAIN)  # which is what W&B is to show, not the process that it talks to
    assert environment["args"][:2] == SMALL[:2]
    written = [row["step"] for row in read_rows(folder / "metrics.jsonl")]
    assert list(history(path))[: len(written)] == written
    assert found["summary"]["step"] >= written[-1]


def test_a_training_that_is_gone_leaves_its_runs_failed_with_the_last_metrics(tmp_path):
    """Its end of the pipe closes, which is all that the other process sees of a kill; signals to that do nothing."""
    sink = WandbSink(tmp_path, mode="offline", labels=[label()])
    for step in (1, 2, 3):
        sink.log(0, {"step": step, "train/return": float(step), "train/value": math.nan}, {})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for number in (signal.SIGINT, signal.SIGTERM):
        sink.process.send_signal(number)
    sink.orders.put(None)
    assert sink._ends_within(60)
    ((path,),) = offline_runs(tmp_path).values()
    found = summary(path)
    assert (found["state"], found["exit_code"]) == ("failed", 137)
    assert found["summary"]["train/return"] == 3
    assert list(history(path)) == [1, 2, 3]


def test_orders_end_with_the_training_process_even_where_its_pipe_stays_open(monkeypatch):
    monkeypatch.setattr(wandb_runs, "PARENT_INTERVAL_S", 0.01)
    reading, writing = os.pipe()
    os.write(writing, b'["write", {"member": 0}]\n["wri')
    with os.fdopen(reading, "rb") as source:
        assert list(wandb_runs.read_orders(source, parent=-1)) == [("write", {"member": 0})]
        os.close(writing)


def test_an_order_that_was_cut_short_is_the_end():
    source = io.BytesIO(b'["write", {"member": 0}]\n["write", {"mem')
    assert list(wandb_runs.read_orders(source, parent=os.getppid())) == [("write", {"member": 0})]


def test_a_process_that_takes_nothing_holds_nothing_up_and_is_not_left_behind(tmp_path, monkeypatch):
    """Two megabytes, far beyond what a pipe holds, for a process that is stopped."""
    monkeypatch.setattr(wandb_sink, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(wandb_sink, "MOST_WAITING", 500)
    sink = WandbSink(tmp_path, mode="offline", labels=[label()])
    sink.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    row = {"step": 1, **{f"train/{index}": 0.123456789 for index in range(100)}}
    with pytest.warns(UserWarning, match=r"W&B stopped \(its process has not taken 500 rows\)") as told:
        [sink.log(0, row, {}) for _ in range(1000)]
    assert time.monotonic() - start < 1.0
    sink.close(failed=False)
    assert len(told) == 1
    assert sink.process.returncode == -signal.SIGKILL


def test_a_hanging_wandb_is_given_up(tmp_path, monkeypatch, stand_in, capsys):
    monkeypatch.setattr(wandb_sink, "CLOSE_TIMEOUT_S", 0.1)
    stand_in("import time; time.sleep(100)")
    sink = WandbSink(tmp_path, mode="offline", labels=[label()])
    with pytest.warns(UserWarning, match="did not finish"):
        sink.close(failed=False)
    assert capsys.readouterr().out == "waiting for W&B to finish …\n"
    assert sink.process.returncode == -signal.SIGKILL


def test_what_the_process_runs_imports_nothing_of_this_package():
    """Which would bring torch along: two seconds of a core, and a gigabyte."""
    tree = ast.parse(wandb_sink.PROGRAM.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {module.partition(".")[0] for module in modules} <= {"wandb", *sys.stdlib_module_names}


def test_the_process_imports_nothing_heavy_besides_wandb(tmp_path):
    code = (
        "import runpy, sys\n"
        f"program = runpy.run_path({str(wandb_sink.PROGRAM)!r})\n"
        "program['leave_out_what_is_not_used']()\n"
        "runs = program['WandbRuns'](print)\n"
        f"runs.open(folder={str(tmp_path)!r}, mode='offline', labels=[{asdict(label())!r}], history=[])\n"
        "runs.write(member=0, row={'step': 1, 'train/return': 1.0}, histograms={'policy/probs/0': [1, 2]})\n"
        "runs.finish(exit_code=0)\n"
        "print([name for name in ('torch', 'pandas', 'wandb.sdk.launch', 'gumbelrl') if sys.modules.get(name)])\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n"
    ((path,),) = offline_runs(tmp_path).values()
    assert history(path)[1]["policy/probs/0.values"] == [1, 2]


def test_off_costs_nothing(tmp_path):
    """Neither is wandb imported nor a process started for it."""
    words = [*TINY, "--total-steps", "64", "--track", "off", "--output", str(tmp_path / "run")]
    code = (
        "import sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda name, values: seen.append(str(values)) if name == 'subprocess.Popen' else None)\n"
        "from gumbelrl.agents.command_line import main\n"
        f"assert main({words}) == 0\n"
        "assert 'wandb' not in sys.modules\n"
        "assert not any('wandb' in each for each in seen), seen\n"
        "assert 'gumbelrl.agents.tracking.wandb_sink' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("fault", ["no key", "no answer"])
def test_what_cannot_be_online_is_kept_offline(tmp_path, monkeypatch, fault):
    import wandb

    asked, run = [], FakeRun(0)

    def init(**options):
        asked.append(options["mode"])
        if options["mode"] == "online":
            raise wandb.errors.CommError("no route to host")
        return run

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(wandb, "login", lambda **options: fault != "no key")
    monkeypatch.setattr(wandb, "teardown", lambda **options: None)
    runs, told = open_runs(tmp_path, mode="online")
    runs.write(member=0, row={"step": 1}, histograms={})
    (said,) = told
    assert said.startswith("W&B is not reached (")
    assert f"`wandb sync {tmp_path}/wandb/offline-run-*` uploads it" in said
    assert asked == {"no key": ["offline"], "no answer": ["online", "offline"]}[fault]
    assert [step for step, _ in run.rows] == [1]


def test_what_is_to_be_told_reaches_the_user(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # where no key lies
    sink = WandbSink(tmp_path, mode="online", labels=[label()])
    with pytest.warns(
        UserWarning, match=r"W&B is not reached \(you are not logged in: `wandb login` does that\)"
    ) as told:
        sink.close(failed=False)
    assert len(told) == 1
    ((path,),) = offline_runs(tmp_path).values()
    assert summary(path)["state"] == "finished"


@pytest.mark.parametrize(
    ("variable", "key", "mode"), [(None, False, "offline"), (None, True, "online"), ("offline", True, "offline")]
)
def test_auto_is_online_only_for_who_is_logged_in(tmp_path, monkeypatch, variable, key, mode):
    import wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: key and not prompt and not verify)
    asked = []
    monkeypatch.setattr(wandb, "init", lambda **options: asked.append(options["mode"]) or FakeRun(0))
    open_runs(tmp_path, mode="auto")
    assert asked == [mode]


def test_the_environment_of_wandb_agent_reaches_the_process(tmp_path, monkeypatch, stand_in):
    stand_in("import os; raise OSError(os.environ['WANDB_SWEEP_ID'], os.environ.get('WANDB_SERVICE'))")
    monkeypatch.setenv("WANDB_SWEEP_ID", "e/p/sweep1")
    monkeypatch.setenv("WANDB_SERVICE", "of someone else")
    with pytest.warns(UserWarning, match=r"\[Errno e/p/sweep1\] None"):
        WandbSink(tmp_path, mode="offline", labels=[label()]).close(failed=False)


def test_wandb_agent_decides_the_first_run(monkeypatch):
    from gumbelrl.agents.tracking.sinks import new_run_ids

    monkeypatch.setenv("WANDB_RUN_ID", "given")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert "given" not in new_run_ids(2)
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    ids = new_run_ids(2)
    assert ids[0] == "given"
    assert len(set(ids)) == 2
