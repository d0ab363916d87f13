"""A study and its data → the manifest: what is known before the first trial, enough to compare, track and repeat it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reranker.command_line.redaction import masked
from reranker.command_line.version import version
from reranker.config import Baseline
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import SLOW, BaselinePlan
from reranker.data.baselines.baseline_ranks import COLLABORATIVE, RANDOM, Baselines
from reranker.data.candidates.candidate_lists import fingerprint
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.metrics import Ranks, is_loss, summarise
from reranker.modeling.checkpoints.model_files import revision_of
from reranker.modeling.checkpoints.model_names import MODELS
from reranker.storage.file_permissions import make_folder
from results.study.list_facts import ListFacts
from results.study.quarantine import put_aside
from results.study.study_folder import READINGS_BEGUN, StudyFolder
from tune.study_file.dimensions import reach
from tune.study_file.study import Study

FORMAT = READINGS_BEGUN  # of a study's folder
_LIBRARIES = ("ray", "torch", "transformers", "peft", "trl", "optuna", "mlflow")


def score_baselines(study: Study, data: RerankingData, say: Callable[[str], None] = lambda line: None) -> Baselines:
    """Every baseline of the study on its validation lists.

    Args:
        say: receives the progress of those that are trained.
    """
    return data.baselines(study.base(), "validation", _plan(study, data), say)


def keep_baselines(
    study: Study, data: RerankingData, folder: StudyFolder, baselines: Baselines | None = None
) -> Baselines:
    """Keep the baselines' ranks in the study's folder, user by user.

    Args:
        baselines: as `score_baselines` gives them; None: they are scored now.
    """
    baselines = baselines or score_baselines(study, data)
    users = [data.interactions.user_ids[example.user] for example in data.validation(study.base())]
    for name, ranks in baselines.ranks.items():
        if name != RANDOM:
            kept = folder.baseline(name)
            make_folder(kept.path)
            if name in baselines.figures:
                kept.write_figures(baselines.figures[name])
            kept.keep_ranks(users, ranks)  # last: they show that all of it is there
    return baselines


def keep_missing_baselines(study: Study, data: RerankingData, folder: StudyFolder, say: Callable[[str], None]) -> None:
    """The same for those that a study did not name when it was begun, if its lists are still made as they were then."""
    manifest = folder.read_manifest()
    plan, scored = _plan(study, data), {*folder.baselines(), *folder.left_out_baselines()}
    names = tuple(name for name in plan.names if name not in scored)
    if not names or fingerprint(data.validation(study.base())) != manifest.get("lists"):
        return
    baselines = data.baselines(study.base(), "validation", replace(plan, names=names), say)
    new: dict[str, Ranks] = {name: ranks for name, ranks in baselines.ranks.items() if name in names}
    keep_baselines(study, data, folder, replace(baselines, ranks=new))
    folder.write_manifest(manifest | {"left_out_baselines": folder.left_out_baselines() | baselines.left_out})


def restore_baselines(study: Study, folder: StudyFolder, names: Sequence[str]) -> list[str]:
    """Score baselines again whose files are lost, on the study's data, and keep their ranks.

    Args:
        names: those that are lost; those that take a language model or a training are not scored here.

    Returns:
        The names of those that were scored; none where data or lists are not those of the study.
    """
    data, manifest = RerankingData.prepare(study.data, folder.imageless()).sealed(), folder.read_manifest()
    plan = _plan(study, data)
    cheap = tuple(name for name in plan.names if name in names and name not in SLOW)
    is_same = data.interactions.fingerprint == manifest["tags"]["data_fingerprint"]
    if not cheap or not is_same or fingerprint(data.validation(study.base())) != manifest.get("lists"):
        return []
    baselines = data.baselines(study.base(), "validation", replace(plan, names=cheap))
    for name in cheap:
        put_aside(folder, folder.baseline(name).path)
    kept: dict[str, Ranks] = {name: ranks for name, ranks in baselines.ranks.items() if name in cheap}
    keep_baselines(study, data, folder, replace(baselines, ranks=kept))
    return list(kept)


def _plan(study: Study, data: RerankingData) -> BaselinePlan:
    """Where the collaborative scores are added to the model's, they alone are a baseline whatever the study names."""
    added: tuple[Baseline, ...] = ("collaborative",) if data.adds_collaborative(study.base()) else ()
    metric = "ndcg_at_10" if is_loss(study.metric) else study.metric
    names = tuple(dict.fromkeys((*study.baselines, *added)))
    return BaselinePlan(names, study.settings.baseline_minutes, metric)


def keep_lists(study: Study, data: RerankingData, folder: StudyFolder) -> None:
    """What is known of the study's validation lists besides their ranks, kept in its folder for figures by segment."""
    lists = data.validation(study.base())
    ListFacts.of(data, lists).keep(folder, fingerprint(lists))


def keep_missing_lists(study: Study, data: RerankingData, folder: StudyFolder) -> None:
    """The same for a study that was begun before they were kept, or whose files of them are damaged, if its lists are
    still made as they were then."""
    try:
        ListFacts.of_study(folder)
    except EnvironmentFault:
        if fingerprint(data.validation(study.base())) == folder.read_manifest().get("lists"):
            keep_lists(study, data, folder)


def make_manifest(
    study: Study, data: RerankingData, tracking_uri: str, baselines: Baselines, command: Sequence[str] = ()
) -> dict[str, Any]:
    """The study's identity, metric and searched knobs, the reference scores on its lists, versions and command.

    Args:
        tracking_uri: empty for the file beside the studies, wherever they lie.
        command: that began the study, without secrets.
    """
    config = study.base()
    lists, periods = data.validation(config), data.interactions.periods
    begins = {"validation_from": periods.validation_from, "test_from": periods.test_from} if periods else {}
    references = {"chance" if name == RANDOM else name: summarise(ranks) for name, ranks in baselines.ranks.items()}
    return {
        "format": FORMAT,
        "name": study.name,
        "study": study.dump(),
        "study_id": uuid.uuid4().hex,
        "fingerprint": study.fingerprint,
        "metric": study.metric,
        "knobs": study.knobs,
        "references": references,
        "left_out_baselines": baselines.left_out,
        "lists": fingerprint(lists),
        "imageless": data.imageless,
        "teacher": data.teacher_file.fingerprint if data.teacher_file is not None else "",
        "grades": _grades(study, data),
        "ceiling": data.ceiling(config),
        "reports_per_epoch": study.reports_per_epoch,
        "compile_layers": study.compiles,
        "best_reachable_recall_at_1": data.best_reachable(config),
        "revisions": {model: revision for model in study.models if (revision := revision_of(model))},
        "tags": {"data_fingerprint": data.interactions.fingerprint, "code_version": _code_version()},
        "plan": {
            "metric": study.metric,
            "trials": study.settings.trials,
            "sampler": study.settings.sampler,
            "seed": study.settings.seed,
            "candidates": config.candidates,
            "source": study.data.source,
            "candidate_mode": study.data.candidate_mode,
            "retriever": study.data.retriever,
            "evaluation": study.data.evaluation,
            "split": study.data.split,
            **begins,
            "validation_lists": len(lists),
            "validation_users": len({example.user for example in lists}),
        },
        "tracking_uri": masked(tracking_uri),
        "command": list(command),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES}
        | {"python": sys.version.split()[0]},
    }


def reports_of(folder: StudyFolder) -> int:
    """The reports an epoch that a study was begun with; studies of before had one."""
    return int(folder.read_manifest().get("reports_per_epoch", 1))


def compiles(folder: StudyFolder) -> bool | None:
    """What `compile_layers: auto` was decided to be; None where it was not."""
    decided = folder.read_manifest().get("compile_layers")
    return None if decided is None else bool(decided)


def check_same(folder: StudyFolder, study: Study, data: RerankingData) -> None:
    """A study goes on only on the data and in the space that it was begun with.

    Raises:
        InputError: one of them has changed.
    """
    manifest = folder.read_manifest()
    faults = []
    if manifest["fingerprint"] != study.fingerprint:
        hint = "start a new study, with --warm-start if the space overlaps"
        faults.append(
            Fault("metric, data, fixed knobs and space must stay as they were when the study began", hint=hint)
        )
    if manifest["tags"]["data_fingerprint"] != data.interactions.fingerprint:
        faults.append(Fault("the data are not those that the study began with", hint="start a new study"))
    elif not faults and manifest.get("lists", now := fingerprint(data.validation(study.base()))) != now:
        begun_by = manifest["tags"].get("code_version", "another version")
        rule = "the validation lists are not those that the study began with, so its trials can't be compared"
        faults.append(Fault(rule, field="data", hint=f"go on with {begun_by}, which made them, or start a new study"))
    if manifest.get("teacher", "") != (data.teacher_file.fingerprint if data.teacher_file is not None else ""):
        rule = "the teacher's scores are not those that the study began with"
        faults.append(Fault(rule, field="data.teacher_scores", hint="start a new study"))
    if manifest.get("grades", grades := _grades(study, data)) != grades:
        rule = "the ratings are not those that the study began with, and positive_grades: rating looks at them"
        faults.append(Fault(rule, field="data", hint="start a new study"))
    for model, revision in manifest.get("revisions", {}).items():
        if revision_of(model) not in ("", revision):
            rule = f"the model must stay at the revision that the study began with, {revision[:12]}"
            hub = MODELS[model].hub if model in MODELS else model
            hint = f"hf download {hub} --revision {revision}, or start a new study"
            faults.append(Fault(rule, field="model", value=model, hint=hint))
    reports = reports_of(folder)
    if study.settings.reports_per_epoch not in ("auto", reports):
        rule = f"must stay {reports}, as when the study began"
        faults.append(Fault(rule, field="study.reports_per_epoch", value=study.settings.reports_per_epoch))
    if data.adds_collaborative(study.base()) and COLLABORATIVE not in folder.baselines():
        rule = (
            "the study was begun before collaborative scores were added to the model's, so its trials can't be compared"
        )
        faults.append(Fault(rule, hint="start a new study"))
    if faults:
        raise InputError(faults)


def _grades(study: Study, data: RerankingData) -> str:
    """What right items are worth by ratings, as a digest; empty where no trial may ask."""
    grades = reach("positive_grades", study.fixed, study.dimensions)
    return data.interactions.worths_fingerprint if "rating" in grades else ""


def _code_version() -> str:
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version()}+{git.stdout.strip()}" if git.returncode == 0 and git.stdout.strip() else version()
