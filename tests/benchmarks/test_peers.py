"""`benchmarks/peers.py`: figures from a run's line, medians, the table, and peers that cannot be run."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gumbelrl.agents.command_line import requested_runs
from gumbelrl.agents.presets import with_preset

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])


def test_figures_of_a_line_are_from_the_end_of_the_warm_up_and_from_the_start():
    import peers

    line = {"warm": [110.0, 1000, 10], "last": [120.0, 6000, 60], "solved": [115.0, 3000, 30], "versions": {}}
    found = peers.measures({**line, "members": 2}, 100.0)
    assert found["steps_per_second"] == 2 * 500
    assert found["updates_per_second"] == 2 * 5
    assert found["steps_per_second_with_compilation"] == 2 * 300
    assert found["start_and_compile_seconds"] == 10
    assert found["solved_seconds"] == 15
    with pytest.raises(peers.RunFailed, match="before throughput could be measured, after 6000 steps"):
        peers.measures({**line, "warm": None}, 100.0)


def runs(*rates, solved=()):
    return [
        {
            "steps_per_second": rate,
            "updates_per_second": 1.0,
            "start_and_compile_seconds": 1.0,
            "steps_per_second_with_compilation": rate / 2,
            "solved_seconds": seconds,
        }
        for rate, seconds in zip(rates, solved or [None] * len(rates), strict=True)
    ]


def test_medians_ratios_and_what_was_left_out():
    import peers

    summary = peers.summarise(
        {
            "sb3-ppo": {
                "peer": runs(10, 30, 20, solved=[9.0, None, 7.0]),
                "ours": runs(50, 60, 70, solved=[None, None, 1.0]),
                "compiled": runs(100, 90, 80),
            },
            "rejax-ppo": {"skipped": "cannot be installed: no such thing"},
        }
    )
    assert summary["sb3-ppo"]["ratio"]["steps_per_second"] == 3.0
    # The run that did not solve it counts as the latest.
    assert summary["sb3-ppo"]["peer"]["solved_seconds"] == 9.0
    assert summary["sb3-ppo"]["ours"]["solved_seconds"] is None
    table = peers.table(summary)
    assert summary["sb3-ppo"]["ratio_compiled"]["steps_per_second"] == 4.5
    assert "| 20 | 60 | **3.00×** | 3.00× | 90 | **4.50×** | 1, 1, 1 | 9.0 s (2 of 3) |" in table
    assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "cannot be installed: no such thing" in table
    said = peers.overview(summary).splitlines()
    assert said[1].split() == ["SB3", "PPO", "20", "60", "3.00x", "4.50x", "9.0", "s", "(2", "of", "3)"]
    assert said[2] == "rejax PPO               left out: cannot be installed: no such thing"
    assert "not run" in next(line for line in table.splitlines() if "Tianshou" in line)


def test_results_that_are_kept_say_where_they_are_from():
    import peers

    def results(date, *names):
        return {"date": date, "summary": dict.fromkeys(names, date), "runs": dict.fromkeys(names, date)}

    first = peers.joined(results("1", "sb3-ppo", "sbx-ppo", "ours"), results("2", "sbx-ppo", "ours"))
    assert first["summary"] == first["runs"] == {"sb3-ppo": "1", "sbx-ppo": "2", "ours": "2"}
    assert first["earlier"] == [{"date": "1", "peers": ["sb3-ppo"]}]
    second = peers.joined(first, results("3", "ours"))
    assert second["summary"] == {"sb3-ppo": "1", "sbx-ppo": "2", "ours": "3"}
    assert second["earlier"] == [{"date": "1", "peers": ["sb3-ppo"]}, {"date": "2", "peers": ["sbx-ppo"]}]
    assert peers.joined(second, results("4", "sb3-ppo", "sbx-ppo", "ours"))["earlier"] == []


def test_work_of_ours_that_several_peers_are_compared_with_is_measured_once(monkeypatch, tmp_path):
    import peers

    ran = []

    def run(command, core):
        ran.append(command)
        return runs(1.0)[0] | {"solved_seconds": None}

    monkeypatch.setattr(peers, "run", run)
    monkeypatch.setattr(peers, "environment", lambda name, folder: folder / name)
    options = argparse.Namespace(words=[], limit=1.0, compiled=False, repeats=2, core=0, environments=tmp_path)
    found = peers.measure_all(["sb3-dqn", "sbx-dqn"], options)
    assert len(ran) == len(set(ran)) == 2 * (2 + 1 + 2)  # two peers, the work of both, ours as one would run it
    assert [len(found["sbx-dqn"][side]) for side in ("peer", "ours")] == [2, 2]


def test_every_case_has_its_script_its_requirements_and_words_that_train_takes():
    import peer_cases

    for case in [*peer_cases.CASES.values()]:
        assert (ROOT / "benchmarks" / "peers" / case.script).exists()
        pins = (ROOT / "benchmarks" / "peers" / f"{case.environment}.txt").read_text().split()
        assert all("==" in pin and "+" not in pin for pin in pins), case.environment
        assert len(requested_runs(case.ours)) == 1
    for _, words in peer_cases.OURS.values():
        assert len(requested_runs(with_preset(words))) == 1


@pytest.mark.slow  # makes a virtual environment
def test_a_peer_that_cannot_be_installed_is_left_out_with_its_reason(tmp_path, monkeypatch):
    import peer_environments

    monkeypatch.setattr(peer_environments, "PEERS", tmp_path)
    (tmp_path / "nobody.txt").write_text("./there/is/no/such/folder\n")
    with pytest.raises(peer_environments.CannotInstall, match=r"no/such/folder|Invalid requirement"):
        peer_environments.environment("nobody", tmp_path / "environments")
    assert not (tmp_path / "environments" / "nobody" / peer_environments.STAMP).exists()


def test_a_run_that_fails_says_its_last_words():
    import peers

    with pytest.raises(peers.RunFailed, match="ValueError: no such game"):
        peers.run([sys.executable, "-c", "raise ValueError('no such game')"], core=min(os.sched_getaffinity(0)))


def test_ours_prints_a_line_that_can_be_measured():
    import peers

    words = json.dumps(["--num-envs", "4", "--rollout-steps", "8", "--hidden", "8", "--total-steps", "100000"])
    command = [sys.executable, str(ROOT / "benchmarks" / "peers" / "run_ours.py"), "--words", words]
    command += ["--limit", "0.1", "--warm-up", "32", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = peers.measures(json.loads(done.stdout.splitlines()[-1]), 0.0)
    assert found["steps_per_second"] / found["updates_per_second"] == pytest.approx(2.0)  # 32 steps, 16 updates


def test_the_recorder_stops_when_enough_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks" / "peers"), *sys.path])
    import record

    now = [0.0]
    monkeypatch.setattr(record.time, "time", lambda: now[0])
    recorder = record.Recorder(limit=10.0, warm_up=100)
    now[0] = 50.0
    assert recorder.mark(50, 5)
    assert recorder.mark(100, 10)
    now[0] = 52.0
    recorder.episodes([475.0] * 100)
    assert recorder.mark(200, 20)  # solved, but three seconds have to be measured
    now[0] = 54.0
    assert not recorder.mark(300, 30)
    assert recorder.solved == [52.0, 200, 20]
    assert (recorder.warm, recorder.last) == ([50.0, 100, 10], [54.0, 300, 30])
