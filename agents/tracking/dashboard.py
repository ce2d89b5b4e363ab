"""`python -m gumbelrl.agents.tracking.dashboard`: a W&B dashboard, made by one command for who is logged in.

Seeds fold into one curve with a band: runs are grouped by their group, and panels follow the runs' table.
Needs `pip install 'gumbelrl[dashboard]'`. The only importer of wandb_workspaces.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from gumbelrl.agents.errors import RunError

NAME = "gumbelrl"
# Section -> title -> keys that runs log; an asterisk at the end: every key that begins so.
CURVES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "Return": {
        "Training return, mean of the last 100 episodes": ("train/return",),
        "Evaluation, sampled policy": ("eval/sampled_return",),
        "Evaluation, greedy policy": ("eval/greedy_return",),
        "Episode length": ("train/length",),
    },
    "Gradient": {
        "Bias of the estimator, against the exact gradient": ("gradient/bias",),
        "Variance of the estimator": ("gradient/variance",),
        "Cosine with the exact gradient": ("gradient/cosine",),
        "Signal to noise": ("gradient/signal_to_noise",),
        "Norm": ("gradient/norm",),
    },
    "Policy": {
        "Entropy": ("policy/entropy",),
        "Temperature": ("policy/temperature",),
        "Soft-minus-hard gap": ("policy/soft_hard_gap",),
        "Divergence from the rollout's policy": ("policy/kl",),
        "Entropy coefficient": ("policy/entropy_coefficient",),
    },
    "Critic": {"Loss": ("train/critic_loss",), "Value": ("train/value",)},
    "Time": {
        "Environment steps a second, all seeds together": ("time/steps_per_second",),
        "Seconds of training": ("time/seconds",),
    },
}
MEDIA: Mapping[str, Sequence[str]] = {
    "Videos": ("eval/video",),
    "Learning curve": ("eval/learning_curve",),
    "Probabilities of the choices": ("policy/probs/0", "policy/probs/1"),
}


def metric_keys() -> list[str]:
    """Return every key that a panel shows."""
    curves = [key for section in CURVES.values() for keys in section.values() for key in keys]
    return [*curves, *(key for keys in MEDIA.values() for key in keys)]


def workspace(entity: str, project: str, *, name: str = NAME) -> Any:
    """Return the dashboard as wandb_workspaces has it; nothing is sent anywhere.

    Raises:
        RunError: the package wandb-workspaces is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own use of pydantic
            import wandb_workspaces.reports.v2 as panels
            import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise RunError("the dashboard needs wandb-workspaces: pip install 'gumbelrl[dashboard]'") from error
    sections = [
        workspaces.Section(
            name=section,
            is_open=index < 2,
            panels=[_line_plot(panels, title, keys) for title, keys in curves.items()],
            panel_settings=workspaces.SectionPanelSettings(x_axis="step"),
        )
        for index, (section, curves) in enumerate(CURVES.items())
    ]
    media = [panels.MediaBrowser(title=title, media_keys=list(keys)) for title, keys in MEDIA.items()]
    compared = panels.RunComparer(diff_only="split")
    sections.insert(1, workspaces.Section(name="Seen", is_open=True, panels=media))
    sections.append(workspaces.Section(name="Configuration", is_open=False, panels=[compared]))
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="step", smoothing_type="none"),
        runset_settings=workspaces.RunsetSettings(
            groupby=[workspaces.Metric("Group")], filters="Metric('JobType') = 'train'"
        ),
    )


def _line_plot(panels: Any, title: str, keys: Sequence[str]) -> Any:
    return panels.LinePlot(
        title=title,
        x="step",
        y=list(keys),
        title_x="environment steps",
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        smoothing_type="none",
        layout=panels.Layout(w=8, h=6),
    )


def main(words: Sequence[str] | None = None) -> int:
    """Create the dashboard; return the exit status: 0, or 2 where that cannot be."""
    parser = argparse.ArgumentParser(prog="python -m gumbelrl.agents.tracking.dashboard", description=__doc__)
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="user or team; your own by default")
    parser.add_argument("--project", default=NAME, help="the project whose runs are shown")
    parser.add_argument("--name", default=NAME, help="name of the saved view")
    options = parser.parse_args(words)
    try:
        entity = options.entity or _own_entity()
        made = workspace(entity, options.project, name=options.name)
        print(f"creating the dashboard of {entity}/{options.project} …", flush=True)
        try:
            made.save()
        except Exception as error:  # whatever the network or W&B has to say
            raise RunError(f"W&B did not take it: {type(error).__name__}: {error}") from error
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(made.url)
    return 0


def _own_entity() -> str:
    from gumbelrl.agents.tracking.wandb_runs import default_entity

    entity = default_entity()
    if entity is None:
        raise RunError("you are not logged in to W&B: `wandb login` does that")
    return entity


if __name__ == "__main__":
    sys.exit(main())
