"""`report.html`: one file without scripts that asks the network for nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

import gumbelrl
from gumbelrl.agents.compare.comparison import (
    DIAGNOSTICS,
    LEARNING_CURVE,
    AcrossComparison,
    Comparison,
    EnvironmentComparison,
    Pair,
)
from gumbelrl.agents.compare.conclusions import conclude
from gumbelrl.agents.compare.formatting import decimals, show_reach, show_seeds, show_training, verdict
from gumbelrl.agents.compare.palette import DASHES, series_colour, series_pattern, variables
from gumbelrl.agents.compare.reading import GLOSSARY
from gumbelrl.agents.compare.statistics import Estimate
from gumbelrl.agents.compare.tables import interval_cell, number_cell, table, text_cell
from gumbelrl.agents.compare.variants import settings

SECURITY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
TABLE_POINTS = 9


def page(comparison: Comparison) -> str:
    """Return the report as HTML."""
    title = headline(comparison)
    sections = [_environment(part, comparison) for part in comparison.environments]
    if comparison.across is not None:
        sections.append(_across(comparison.across, comparison))
    sections += [_configuration(comparison), _runs(comparison), _glossary()]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{SECURITY}">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>
:root {{ {variables(0)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {variables(1)} }} }}
{style}</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
<header>
<h1>{escape(title)}</h1>
<p class="lead">{escape(lead(comparison))}</p>
{_contents(comparison)}
</header>
<main id="results">
{_conclusions(comparison)}
{"".join(sections)}
</main>
<footer><p>Made by gumbelrl {escape(gumbelrl.__version__)}, <code>python -m gumbelrl.agents.compare</code>. The numbers
are in <code>comparison.json</code>, the pictures in <code>plots/</code>, beside this page.</p></footer>
</body>
</html>
"""


def headline(comparison: Comparison) -> str:
    labels, envs = comparison.labels, [part.env for part in comparison.environments]
    what = " vs ".join(labels) if len(labels) <= 4 else f"{len(labels)} variants"
    return f"{what}: {envs[0] if len(envs) == 1 else f'{len(envs)} environments'}"


def lead(comparison: Comparison) -> str:
    """Return how much was run, in a line."""
    summaries = [each for part in comparison.environments for each in part.summaries]
    seeds = sorted({len(each.variant.seeds) for each in summaries})
    steps = sorted({each.variant.config["total_steps"] for each in summaries})
    spread = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    length = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    each_one = "each" if len(summaries) > 1 else "in all"
    return (
        f"{spread} seed{'s' * (seeds[-1] > 1)} {each_one}, {length} environment steps a seed. Intervals are 95% "
        "bootstrap intervals over seeds."
    )


def anchor(text: str) -> str:
    from gumbelrl.agents.compare.plots import slug

    return f"part-{slug(text)}"


def _contents(comparison: Comparison) -> str:
    parts = [(part.env, anchor(part.env)) for part in comparison.environments]
    if comparison.across is not None:
        parts.append(("All environments", "across"))
    parts += [("Configuration", "configuration"), ("Runs", "runs"), ("How to read this", "reading")]
    items = "".join(f'<li><a href="#{name}">{escape(text)}</a></li>' for text, name in parts)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _conclusions(comparison: Comparison) -> str:
    said = "".join(f"<p>{escape(paragraph)}</p>" for paragraph in conclude(comparison))
    return (
        '<section class="conclusions" aria-labelledby="conclusions"><h2 id="conclusions">What the intervals say</h2>'
        f"{said}</section>\n"
    )


def _section(name: str, title: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>\n{body}</section>\n'


# Environments -------------------------------------------------------------------------------------------------------


def _environment(part: EnvironmentComparison, comparison: Comparison) -> str:
    from gumbelrl.agents.compare.plots import NARROW, diagnostic_plots, environment_plots, series_of, svg

    series = series_of(comparison)
    curves, *others = environment_plots(part, comparison.measure, series)
    legend = _legend([each.label for each in part.summaries], series)
    wide = svg(curves).replace("<svg ", '<svg class="wide" ', 1)
    narrow = svg(curves, name=f"{curves.name}-narrow", size=NARROW).replace("<svg ", '<svg class="narrow" ', 1)
    large = (
        f'<figure class="large"><figcaption><h3>Learning curves</h3><p>Mean return of the last 100 training episodes; '
        f"interquartile mean over seeds and its interval. {_threshold_note(part)}</p></figcaption>"
        f"{wide}{narrow}</figure>{_curve_numbers(part)}"
    )
    body = variant_table(part, comparison.measure) + legend + large + _figures(others, part.env)
    body += _pair_details(part.pairs)
    diagnosed = diagnostic_plots(part, series)
    if diagnosed:
        notes = {title.lower(): what for title, what in DIAGNOSTICS.values()}
        body += (
            '<h3 class="apart">Diagnostics while training</h3>'
            '<p class="note">Interquartile means over seeds with their intervals, against steps.</p>'
            + legend
            + _figures(diagnosed, part.env, notes=notes, level=4)
        )
    return _section(anchor(part.env), part.env, body)


def _threshold_note(part: EnvironmentComparison) -> str:
    if part.threshold is None:
        return ""
    return escape(f"The dotted line is {part.threshold:.4g}, {part.threshold_source}.")


def _figures(plots: Iterable, where: str, *, notes: Mapping[str, str] | None = None, level: int = 3) -> str:
    """Return a grid of pictures; each one's title is a heading."""
    from gumbelrl.agents.compare.plots import svg

    items = []
    for plot in plots:
        title = plot.title.removeprefix(f"{where}: ")
        note = f"<p>{escape(notes[title])}</p>" if notes and title in notes else ""
        heading = f"<h{level}>{escape(title[0].upper() + title[1:])}</h{level}>"
        items.append(f"<figure><figcaption>{heading}{note}</figcaption>{svg(plot)}</figure>")
    return f'<div class="plots">{"".join(items)}</div>\n'


def _legend(labels: Sequence[str], series: Mapping[str, int]) -> str:
    items = []
    for label in labels:
        index = series[label]
        dashes = " ".join(f"{length * 2:g}" for length in DASHES[series_pattern(index)])
        line = (
            f'<svg viewBox="0 0 48 16" aria-hidden="true"><line x1="2" y1="8" x2="46" y2="8" stroke-width="4" '
            f'style="stroke: var(--{series_colour(index)})" stroke-dasharray="{dashes}"/></svg>'
        )
        items.append(f"<li>{line}{escape(label)}</li>")
    return f'<ul class="legend" aria-label="Variants">{"".join(items)}</ul>'


def variant_table(part: EnvironmentComparison, measure: str) -> str:
    """Return final returns, steps to the threshold and wall time as a table."""
    other = "greedy" if measure == "sampled" else "sampled"
    form = decimals([each.final[measure] for each in part.summaries])
    head = ["Variant", "Seeds", f"Final return, {measure}", f"Final return, {other}"]
    head += [f"Seeds that reach {part.threshold:.4g}: steps"] if part.threshold is not None else []
    rows = []
    for each in part.summaries:
        cells = [number_cell(str(len(each.variant.seeds)))]
        cells += [interval_cell(each.final[kind], form) for kind in (measure, other)]
        cells += [number_cell(show_reach(each.reach))] if each.reach is not None else []
        seconds = sum(each.variant.train_seconds)
        per_seed = seconds / len(each.variant.seeds)
        rows.append((each.label, [*cells, number_cell(f"{show_training(each)} ({per_seed:.1f} s a seed)")]))
    caption = (
        f"{part.env}: interquartile means over seeds with 95% intervals; each seed's return is its mean over "
        "evaluation episodes after training. Steps are the upper median over seeds."
    )
    return table(caption, [*head, "Training time"], rows)


def _curve_numbers(part: EnvironmentComparison) -> str:
    """Return the learning curves as a table, for who prefers numbers or cannot see the picture."""
    curves = {each.label: each.curves[LEARNING_CURVE] for each in part.summaries if LEARNING_CURVE in each.curves}
    if not curves:
        return ""
    last = min(curve.x[-1] for curve in curves.values())
    first = max(curve.x[0] for curve in curves.values())
    steps = np.linspace(first, last, TABLE_POINTS)
    form = decimals([Estimate(*[float(curve.value[-1])] * 3) for curve in curves.values()])
    rows = []
    for step in steps:
        near = {label: int(np.abs(curve.x - step).argmin()) for label, curve in curves.items()}
        cells = [
            interval_cell(Estimate(float(c.value[at]), float(c.low[at]), float(c.high[at])), form)
            for (c, at) in ((curves[label], index) for label, index in near.items())
        ]
        at_step = next(iter(curves.values())).x[next(iter(near.values()))]
        rows.append((f"{at_step:,.0f}", cells))
    body = table(f"{part.env}: return in training by steps", ["Steps", *curves], rows)
    return f"<details><summary>Learning curves in numbers</summary>{body}</details>"


def _pair_details(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    timed = any(pair.sooner is not None for pair in pairs)
    head = ["Pair", "First ends above", *(["First reaches the threshold sooner"] if timed else []), "Told apart"]
    rows = []
    for pair in pairs:
        cells = [interval_cell(pair.above, ".2f")]
        cells += [interval_cell(pair.sooner, ".2f")] if pair.sooner is not None else []
        rows.append((f"{pair.first} – {pair.second}", [*cells, text_cell(verdict(pair))]))
    body = table("Probabilities between pairs of variants, with 95% intervals; ties count half", head, rows)
    return f"<details><summary>All pairs in numbers</summary>{body}</details>"


def _across(across: AcrossComparison, comparison: Comparison) -> str:
    from gumbelrl.agents.compare.plots import across_plots, series_of

    series = series_of(comparison)
    scales = [
        (
            part.env,
            [text_cell(f"{part.scale.low:.4g}"), text_cell(f"{part.scale.high:.4g}"), text_cell(part.scale.source)],
        )
        for part in comparison.environments
    ]
    body = (
        "<p>The variants that were run in every environment, by normalised score; environments count alike.</p>"
        + _legend(across.labels, series)
        + _figures(across_plots(across, series), "All environments")
        + _pair_details(across.pairs)
        + table("What the scores mean", ["Environment", "Score 0", "Score 1", "Source"], scales)
    )
    return _section("across", "All environments", body)


# What was run -------------------------------------------------------------------------------------------------------


def _configuration(comparison: Comparison) -> str:
    """Return the settings in which variants differ, and behind a fold those that they share."""
    body = []
    for part in comparison.environments:
        flats = {each.label: settings(each.variant.config) for each in part.summaries}
        names = list(dict.fromkeys(name for flat in flats.values() for name in flat))
        same = [name for name in names if len({repr(flat.get(name)) for flat in flats.values()}) == 1]
        differing = [name for name in names if name not in same]
        if differing:
            rows = [
                (label, [text_cell(_value(flat[name]) if name in flat else "–") for name in differing])
                for label, flat in flats.items()
            ]
            body.append(table(f"{part.env}: what differs", ["Variant", *differing], rows))
        shared = [(name, [text_cell(_value(next(iter(flats.values()))[name]))]) for name in same]
        if shared:
            inside = table(f"{part.env}: settings of all variants", ["Setting", "Value"], shared)
            body.append(f"<details><summary>{escape(part.env)}: what all share</summary>{inside}</details>")
    return _section("configuration", "Configuration", "".join(body))


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _runs(comparison: Comparison) -> str:
    reasons = {(run.folder, run.variation): reason for run, reason in comparison.left_out}
    rows = []
    for run in comparison.runs:
        key = (run.folder, run.variation)
        counted = "no" if key in reasons else "yes"
        status = f'<td class="status"><span class="status-{run.status}">{run.status}</span></td>'
        cells = [text_cell(run.config.get("env", "–")), status, text_cell(counted)]
        cells += [text_cell(show_seeds(run.config.get("seeds", []))), text_cell(reasons.get(key, "–"))]
        rows.append((run.name, [*cells, f'<td class="wrap"><code>{escape(str(run.folder))}</code></td>']))
    head = ["Run", "Environment", "Status", "Counted", "Seeds", "Reason", "Folder"]
    count = len(comparison.left_out)
    note = f"{count} of {len(comparison.runs)} runs are not counted." if count else "All runs are finished and counted."
    return _section("runs", "Runs", f"<p>{note}</p>" + table("All runs that were found", head, rows))


def _glossary() -> str:
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in GLOSSARY.items())
    return _section("reading", "How to read this", f"<dl>{items}</dl>")
