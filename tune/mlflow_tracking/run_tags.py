"""A study → what MLflow's pages show of it: what is searched, tags, notes in Markdown."""

from __future__ import annotations

import colorsys
import math
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from reranker.command_line.redaction import masked
from reranker.config import TrialConfig
from reranker.storage.atomic_files import DamagedFile
from results.leaderboard import PRETTY, leaderboard, left_out_baselines
from results.statistics.comparison import Comparison
from results.statistics.seed_averages import replicated
from results.statistics.verdict_text import counted, findings, p_value, signed, verdict
from results.study.adapter_usage import rank_command, serve_command, usable
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from results.study.trial_origin import DRAWN
from tune.mirroring.run_names import brief, text
from tune.mlflow_tracking.mlflow_pages import Links

_LISTED = 10  # rows of the note's leaderboard
_MARKUP = re.compile(r"<(?=\S)|[&|`*\[\]]")


def literal(text: str) -> str:
    """A text from elsewhere on one line of a note, which is Markdown: no tag, which would not be shown, and no cell."""
    return _MARKUP.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))


def run_key(row: Mapping[Hashable, Any]) -> str:
    """Of a row of the leaderboard: a trial's number, or a baseline's name."""
    return str(row["name"]).split()[1] if row["kind"] == "trial" else str(row["name"])


def run_color(trial: StoredTrial) -> str:
    """Far from those of the trials before and after; MLflow's own often give two runs of a plot the same."""
    hue = trial.number * 0.618034 % 1
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, 0.45, 0.75))
    return f"#{red:02x}{green:02x}{blue:02x}"


def axes(study: StudyFolder) -> dict[str, str]:
    """Searched knob → the parameter that shows it once more, named so that it sorts before all others.

    MLflow's compare page opens with the first three parameters that differ; and its axes are linear, so a knob that is
    searched evenly in the logarithm is shown by that, unless it may also have a value that has none.

    Raises:
        DamagedFile: the study file does not say what is searched.
    """
    sections = study.read_sections()
    space, fixed = sections.get("space"), sections.get("fixed") or {}
    if not isinstance(space, dict):
        raise DamagedFile(study.study_file, "is damaged: it has no space")

    def ending(knob: str) -> str:
        entry = space.get(knob, {})  # knobs that vary together, joined by "+", are choices
        if "log_uniform" not in entry and not entry.get("log"):
            return ""
        kept = fixed.get(knob, TrialConfig.model_fields[knob].default)  # where a condition does not hold
        always = "when" not in entry or (isinstance(kept, int | float) and kept > 0)  # not 0, `auto` or null elsewhere
        return " log10" if always else ""

    return {knob: f"Searched/{knob}{ending(knob)}" for knob in study.read_manifest()["knobs"]}


def searched(values: Mapping[str, Any], axes: Mapping[str, str]) -> dict[str, str]:
    """The searched knobs of a trial, as `axes` names them; without one that is 0, `auto` or null where its condition
    does not hold, which has no place on a logarithmic axis."""
    logs = {knob for knob, name in axes.items() if name.endswith(" log10")}
    return {
        name: f"{math.log10(values[knob]):.3f}" if knob in logs else text(values[knob])
        for knob, name in axes.items()
        if knob not in logs or (isinstance(values[knob], int | float) and values[knob] > 0)
    }


def trial_note(trial: StoredTrial, metric: str, knobs: list[str]) -> str:
    """What it was and how it ended, in a line."""
    original = replicated(trial)
    what = ", ".join(f"{knob} {brief(trial.values[knob])}" for knob in knobs)
    if original is not None:
        what = f"trial {original} again with seed {trial.values['seed']} ({what})"
    elif trial.origin != DRAWN:
        what += f" ({trial.origin})"
    line = f"**{literal(what)}**: {literal(_how_it_ended(trial))}"
    if (best := trial.best(metric)) is not None:
        scores = ", ".join(
            f"{PRETTY.get(name, name)} {best[name]:.3f}" for name in dict.fromkeys([metric, "recall_at_1"])
        )
        line += f"; {scores} at its best, epoch {best['epoch']:g}"
    return "; ".join([line, *map(literal, trial.notes)]) + "."


def ranker_note(name: str) -> str:
    """What a baseline or chance is, in a line."""
    if name == "chance":
        return "**chance**: what a ranker without knowledge gets, exactly."
    return f"**{literal(name)}**: a baseline, on the same lists as every trial. It has no epochs; its curves are level."


def _how_it_ended(trial: StoredTrial) -> str:
    done = f"{trial.reports[-1]['epoch'] if trial.reports else 0:g}"
    planned = counted(trial.values["epochs"], "epoch")
    match trial.status:
        case TrialStatus.RUNNING:
            return f"running, {done} of {planned}"
        case TrialStatus.COMPLETED:
            return f"completed, {planned}"
        case TrialStatus.FAILED:
            return f"failed after {done} of {planned}: {trial.cause}"
        case TrialStatus.PRUNED:
            return f"stopped after {done} of {planned}" + (f": {trial.cause}" if trial.cause else ", as too weak")
        case TrialStatus.CANCELLED:
            return f"cut short with the search after {done} of {planned}"


def experiment_note(study: StudyFolder, links: Links) -> str:
    """What stands above MLflow's list of runs: where to look, and the verdict. One line, since that is all that
    shows."""
    where = {
        "Leaderboard": links.view("leaderboard"),
        "Charts": links.view("charts"),
        "Compare": links.compare(),
        "Findings": links.study(),
    }
    said = verdict(study) if study.read_ending()["reason"] or study.leaderboard.exists() else _plan(study)
    return " · ".join(f"[{name}]({to})" for name, to in where.items()) + f" · **{said}**"


def study_note(study: StudyFolder, links: Links, comparison: Comparison | None, losses: Sequence[str] = ()) -> str:
    """The parent run's note: the verdict, what is proven, the best, the sealed test, how to go on.

    Args:
        losses: where the winner is proven worse than a baseline, a sentence for each segment of the lists.
    """
    ending = study.read_ending()
    blocks = [f"**{verdict(study)}**"]
    if ending["reason"]:
        blocks.append(f"Ended early: {ending['reason']}.")
    go_to = [f"[Leaderboard]({links.view('leaderboard')})", f"[Charts]({links.view('charts')})"]
    if (study.path / "report.html").exists():
        go_to.append(f"[Report]({links.study('report.html')})")
    blocks.append(" · ".join([*go_to, f"[Compare]({links.compare()})"]))
    if proven := [*findings(comparison), *losses]:
        blocks += ["### What is proven", "\n".join(f"- {line}" for line in proven)]
    blocks += ["### The best, and what they must beat", _table(study, links)]
    if readings := study.readings():
        blocks += ["### The sealed test", "\n".join(f"- {literal(reading_text(reading))}" for reading in readings)]
    if comparison is not None:
        blocks += ["### Use it", _use(study, comparison.winner)]
    return "\n\n".join(blocks)


def reading_text(reading: Mapping[str, Any]) -> str:
    """One reading of the test split, in a line."""
    shown = ("recall_at_1", "ndcg_at_10")
    figures = ", ".join(f"{PRETTY[name]} {reading['figures'][name]:.3f}" for name in shown)
    against = [
        f"{signed(value['mean'])} to {name} ({p_value(value['p'])})" for name, value in reading["against"].items()
    ]
    left_out = [f"{name} is left out: {reason}" for name, reason in reading.get("left_out_baselines", {}).items()]
    line = f"{reading['time']}, trial {reading['trial']}, {counted(reading['users'], 'user')}: "
    line += "; ".join([figures, *against, *left_out])
    return line + (f". UNSEALED again: {reading['unseal']}" if reading["unseal"] else "")


def _plan(study: StudyFolder) -> str:
    manifest = study.read_manifest()
    metric = PRETTY.get(manifest["metric"], manifest["metric"])
    return f"Searching {', '.join(manifest['knobs'])} by {metric}, {counted(manifest['plan']['trials'], 'trial')}."


def _table(study: StudyFolder, links: Links) -> str:
    """The first of the leaderboard, and all baselines."""
    knobs = study.read_manifest()["knobs"]
    rows = leaderboard(study)
    notes = [literal(f"{name} is left out: {reason}") for name, reason in left_out_baselines(rows)]
    rows = rows[rows["recall_at_1"].notna() & ((rows["kind"] != "trial") | (rows["rank"] <= _LISTED).fillna(False))]
    lines = [_row(["", "Recall@1", "NDCG@10", "epoch", *knobs]), _row(["---"] * (4 + len(knobs)))]
    for row in rows.to_dict("records"):
        scores = [f"{row[name]:.3f}" for name in ("recall_at_1", "ndcg_at_10")]
        others = ["" if pd.isna(row[name]) else literal(brief(row[name])) for name in ("epoch", *knobs)]
        lines.append(_row([f"[{literal(str(row['name']))}]({links.run(run_key(row))})", *scores, *others]))
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell if cell == "---" else f"{cell}&nbsp; " for cell in cells) + " |"


def _use(study: StudyFolder, best: StoredTrial) -> str:
    adapter = usable(study, best.number)
    which = f"trial {best.number if adapter.refit_of is None else adapter.refit_of}"
    which += "" if adapter.refit_of is None else ", trained once more with the validation items"
    blocks = [
        f"The adapter of {which}:",
        f"    {adapter.folder / 'adapter'}",
        "Rank a list with it:",
        f"    {rank_command(adapter)}",
        f"In Python: `reranker.rank.Reranker.load({str(adapter.folder)!r}).rank(history, candidates)`.",
    ]
    if adapter.model:
        blocks += [
            f"Serve it, as `{adapter.model}` of the registry:",
            f"    {masked(serve_command(study, adapter.model))}",
        ]
    return "\n\n".join(blocks)
