"""The model card of a run: its `README.md`, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gumbelrl
from gumbelrl.agents.progress import format_spread
from gumbelrl.agents.registry import AGENTS, NO_ESTIMATOR
from gumbelrl.agents.results import VariationResult, variation_results
from gumbelrl.agents.variations import show


def model_card(folder: Path, config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the card.

    Args:
        folder: of the run; pictures and videos that are in it are shown.
        config: what `config.json` holds.
        results: what `results.json` holds.
    """
    variations = variation_results(results["members"])
    parts = [
        front_matter(config, results),
        f"# {title(config)}",
        _sentence(config, results),
        _variation_table(variations, results) if variations else _table(results),
        _picture(folder),
        "## Use",
        "```bash\n"
        "python train.py --evaluate FOLDER --episodes 100 --video   # FOLDER holds this file\n"
        "python train.py --resume FOLDER                            # goes on where it stopped\n"
        "```",
        "`checkpoints/` holds safetensors and JSON, no pickle: nothing in it can run.",
        "## Settings",
        "```json\n" + json.dumps(_settings(config), indent=2) + "\n```",
        "## Limits",
        f"Trained and evaluated in {config['env']} only, with fresh episodes of the same environment; returns are of "
        "the undiscounted rewards. A seed is one training run: judge a method by all of them, not by the best.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(config: Mapping[str, Any]) -> str:
    return " · ".join([config["agent"], *_estimator(config), config["env"]])


def _estimator(config: Mapping[str, Any]) -> list[str]:
    """The estimator, of an agent that takes one."""
    return [] if (config["policy"], config["critic"]) == NO_ESTIMATOR else [config["policy"]]


def front_matter(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """Return the YAML block at the top: JSON strings are YAML strings, whatever is in them."""
    name = json.dumps("-".join([config["agent"], *_estimator(config)]))
    env = json.dumps(config["env"])
    tags = [
        config["env"],
        "deep-reinforcement-learning",
        "reinforcement-learning",
        config["agent"],
        *_estimator(config),
    ]
    members = _best(results)
    returns = [member["eval/sampled_return"] for member in members]
    return "\n".join(
        [
            "---",
            "library_name: gumbelrl",
            "pipeline_tag: reinforcement-learning",
            "tags:",
            *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags)),
            "model-index:",
            f"- name: {name}",
            "  results:",
            "  - task:",
            "      type: reinforcement-learning",
            "      name: reinforcement-learning",
            "    dataset:",
            f"      name: {env}",
            f"      type: {env}",
            "    metrics:",
            "    - type: mean_reward",
            f'      value: "{np.mean(returns):.2f} +/- {_spread(members):.2f}"',
            "      name: mean_reward",
            "      verified: false",
            "---",
        ]
    )


def _best(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the members of the best variation, or all where they share their settings."""
    variations, members = variation_results(results["members"]), results["members"]
    return [member for member in members if not variations or member["variation"] == variations[0].name]


def _spread(members: Sequence[Mapping[str, Any]]) -> float:
    """Return the standard deviation over all episodes of some members."""
    means = np.array([member["eval/sampled_return"] for member in members])
    deviations = np.array([member["eval/sampled_return_std"] for member in members])
    return float(np.sqrt(np.mean(deviations**2) + means.var()))


def _sentence(config: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    how = ""
    if _estimator(config):
        how = (
            f" The critic (`{config['critic']}`) sends its gradient through the sampled action by "
            f"`{config['policy']}`{_temperature(config)}."
        )
    members, variations = len(results["members"]), len(variation_results(results["members"]))
    seeds = "one seed" if members == 1 else f"{members} seeds, side by side in one process"
    if variations:
        seeds = f"{members} members, {variations} variations of the settings, side by side in one process"
    return (
        f"Trained by gumbelrl {gumbelrl.__version__} for {results['members'][0]['steps']:,} steps of "
        f"`{config['env']}` with {seeds}, in {results['train_seconds']:.0f} s.\n\n"
        f"`{config['agent']}`: {AGENTS[config['agent']].summary}.{how}"
    )


def _temperature(config: Mapping[str, Any]) -> str:
    varied = any("temperature" in variation for variation in config.get("variations", ()))
    return "" if varied else f", at temperature `{config['temperature']}`"


def _table(results: Mapping[str, Any]) -> str:
    count = results["evaluation_episodes"]
    lines = [
        f"Returns over {count} episodes of each seed, mean ± standard deviation:",
        "",
        "| seed | sampled policy | greedy policy | solved at step |",
        "|---|---|---|---|",
    ]
    for member in results["members"]:
        cells = [
            format_spread(member[f"eval/{kind}_return"], member[f"eval/{kind}_return_std"])
            for kind in ("sampled", "greedy")
        ]
        solved = f"{member['solved_at']:,}" if member["solved_at"] else "–"
        lines.append(f"| {member['seed']} | {cells[0]} | {cells[1]} | {solved} |")
    return "\n".join(lines)


def _variation_table(variations: Sequence[VariationResult], results: Mapping[str, Any]) -> str:
    names = list(variations[0].settings)
    count = results["evaluation_episodes"]
    lines = [
        f"Returns over {count} episodes of each seed, mean ± standard deviation over seeds, the best variation first. "
        "What is best is chosen by these very numbers, which flatter it.",
        "",
        f"| {' | '.join(names)} | seeds | sampled policy | greedy policy | solved |",
        "|---" * (len(names) + 4) + "|",
    ]
    for each in variations:
        cells = [show(value) for value in each.settings.values()] + [str(each.num_seeds)]
        cells += [each.spread(kind) for kind in ("sampled", "greedy")]
        lines.append(f"| {' | '.join(cells)} | {each.num_solved} of {each.num_seeds} |")
    return "\n".join(lines)


def _picture(folder: Path) -> str:
    shown = []
    if (folder / "learning_curve.png").exists():
        shown.append("![Learning curve: training return against environment steps](learning_curve.png)")
    videos = sorted((folder / "videos").glob("*")) if (folder / "videos").is_dir() else []
    if videos:
        name = f"videos/{videos[-1].name}"
        shown.append(f"![An episode]({name})" if name.endswith(".gif") else f"[An episode]({name})")
    return "\n\n".join(shown)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration, less what says nothing of the model, and what a table shows."""
    rest = ("output", "track", "project", "tags", "notes", "tensorboard", "variations")
    kept = {name: value for name, value in config.items() if name not in rest}
    if not (variations := config.get("variations")):
        return kept
    values = {name: list(dict.fromkeys(each[name] for each in variations)) for name in variations[0]}
    own = {name: values.get(name, value) for name, value in kept["agent_config"].items()}
    shared = {name: values[name] for name in values if name in kept}
    return {**kept, **shared, "seeds": list(dict.fromkeys(kept["seeds"])), "agent_config": own}
