"""`benchmarks/gpu.py` runs, at tiny sizes and on a CPU; on a GPU it is run by hand."""

import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_runs_without_a_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    path = tmp_path / "gpu.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--parts", "replay", "--output", str(path)])
    gpu.main()
    results = json.loads(path.read_text())
    assert results["smoke"]
    assert set(results["replay"]) == {"100", "1000"}
    assert all(row["iteration_ms"] > 0 for row in results["replay"].values())
    assert "replay (" in capsys.readouterr().out
    assert gpu.table(results).splitlines()[0] == "| transitions held by `sac` | MB | ms an iteration |"

    monkeypatch.setattr(sys, "argv", ["gpu.py", "--smoke", "--limit", "-1", "--output", str(path)])
    gpu.main()
    assert json.loads(path.read_text()) == results  # there was no time for anything, and what there was stays

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "there is no CUDA device; --smoke tries the script" in capsys.readouterr().err


def test_tables_of_what_a_gpu_would_give(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import gpu

    busy = {"share": 0.876, "kernels": 4321.0}
    results = {
        "missing": ["precisions"],
        "graphs": {"sac/64": {"eager_ms": 12.0, "graph_ms": 1.5, "ratio": 8.0, "goal": 5.0, "busy": busy}},
        "steps": {"steps_per_second": {"ppo/16x1024": 2.5e6}, "best": "ppo/16x1024"},
        "members": {"4": {"iteration_ms": 8.0, "member_ms": 2.0}},
        "updates": {"updates_per_second": {"256": 123456.0}},
        "replay": {"1000000": {"iteration_ms": 1.0, "megabytes": 41.0}},
    }
    written = gpu.table(results)
    for row in (
        "| `sac` | 64 | 12.00 | 1.50 | 8.0× | 4,321 | 88% |",
        "| `ppo` | 16 × 1024 | 2.50 |",
        "| 4 | 8.00 | 2.000 |",
        "| 256 | 123,456 |",
        "| 1,000,000 | 41.0 | 1.00 |",
        "Not measured, for want of time: precisions.",
    ):
        assert row in written
