"""Writes the generated parts of docs/estimators.md and its plots, from the registry and the benchmarks' JSON."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from estimator_claims import claims_table

from gumbelrl.policies import ESTIMATORS

from estimator_problems import PROBLEMS
from generated import DOCS, write_parts

SPEED = Path(__file__).parent / "results" / "estimator_speed.json"
# Names inside a plot would differ by run: with these the same numbers give the same file.
METADATA = {"Date": None, "Creator": "benchmarks/estimators.py"}


def property_table() -> str:
    """Return what the registry declares, as Markdown."""
    lines = [
        "| `--policy` | exact for | slope | vertices only | noise | evaluations | temperature | source |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, each in ESTIMATORS.items():
        yes = ("no", "yes")
        lines.append(
            f"| `{name}` | {each.exact_on} | {yes[each.pathwise]} | {yes[each.one_hot]} | {each.noise} | "
            f"{each.evaluations} | {each.temperature} | {each.paper} |"
        )
    return "\n".join(lines)


def reference_sections() -> str:
    """Return one section an estimator, from its docstring."""
    sections = []
    for name, each in ESTIMATORS.items():
        text = inspect.cleandoc(each.function.__doc__ or "")
        summary, _, rest = text.partition("\n\n")
        body = rest.split("\nArgs:")[0].strip()
        source = re.search(r"\nReference: (.*)", text, re.DOTALL)
        sections.append(f"### `{name}`\n\n{summary}\n\n{body}\n\n" + (f"*{_flow(source[1])}*" if source else ""))
    return "\n\n".join(sections)


def _flow(text: str) -> str:
    return " ".join(text.split())


def speed_tables(speed: dict[str, Any]) -> dict[str, str]:
    """Return the tables of `estimator_speed.py`, by name."""
    tables = {}
    if "plain" in speed:
        found = speed["plain"]["found"]
        shapes = list(next(iter(found.values())))
        head = " | ".join(f"{s}, {mode}" for s in shapes for mode in ("eager", "compiled"))
        lines = [f"| estimator | {head} |", "|---|" + "---|" * 4]
        for name, rows in found.items():
            lines.append(
                f"| `{name}` | "
                + " | ".join(_ratio(rows[s].get(m)) for s in shapes for m in ("eager", "compiled"))
                + " |"
            )
        over = found["gumbel"]
        cells = " | ".join(f"{over[s][f'{m} over torch']:.2f}" for s in shapes for m in ("eager", "compiled"))
        lines.append(f"| `gumbel` over `torch.nn.functional.gumbel_softmax` | {cells} |")
        tables["speed"] = "\n".join(lines)
    if "scaling" in speed:
        found = speed["scaling"]["found"]
        shapes = list(next(iter(found.values())))
        lines = ["| estimator | " + " | ".join(shapes) + " |", "|---|" + "---|" * len(shapes)]
        lines += [
            f"| `{name}` | " + " | ".join(f"{rows[s]:.2f}" for s in shapes) + " |" for name, rows in found.items()
        ]
        tables["scaling"] = "\n".join(lines)
    if "diagnostics" in speed:
        found = speed["diagnostics"]["found"]
        lines = ["| estimator | linear critic | joint critic |", "|---|---|---|"]
        lines += [f"| `{name}` | {row['linear']:.2%} | {row['joint']:.2%} |" for name, row in found.items()]
        tables["diagnostics"] = "\n".join(lines)
    return tables


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def problem_sections(results: dict[str, Any]) -> str:
    """Return question, plot and table of each problem."""
    sections = []
    for name, problem in PROBLEMS.items():
        if name in results:
            picture = f"![{problem.TITLE}: the numbers of the table below as a plot](figures/{name}.svg)"
            sections.append(
                f"### {problem.TITLE}\n\n{problem.QUESTION}\n\n{picture}\n\n{problem.table(results[name]['found'])}"
            )
    return "\n\n".join(sections)


def provenance_line(results: dict[str, Any]) -> str:
    entry = next(iter(results.values()))
    minutes = sum(sum(each["seconds"].values()) for each in results.values()) / 60
    return (
        f"Run on {entry['date']}, torch {entry['torch']}, {entry['hardware']}, one thread a process; {minutes:.1f} "
        "minutes of one core."
    )


def write_pages(results: dict[str, Any]) -> None:
    """Rewrite the generated parts of docs/estimators.md, and the plots beside it."""
    speed = json.loads(SPEED.read_text()) if SPEED.exists() else {}
    parts = {
        "properties": property_table(),
        "reference": reference_sections(),
        "claims": claims_table(results),
        "problems": problem_sections(results),
        "provenance": provenance_line(results),
        **speed_tables(speed),
    }
    write_parts("estimators.md", parts)
    write_plots(results)


def write_plots(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "gumbelrl"
    folder = DOCS / "figures"
    folder.mkdir(exist_ok=True)
    for name, problem in PROBLEMS.items():
        if name in results:
            figure = pyplot.figure(figsize=(7, 4.5), layout="constrained")
            problem.plot(results[name]["found"], figure)
            for axes in figure.axes:
                axes.spines[["top", "right"]].set_visible(False)
            figure.savefig(folder / f"{name}.svg", metadata=METADATA)
            pyplot.close(figure)
