"""A study and its data → the manifest: what is known before the first trial, enough to compare, track and repeat it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reranker.command_line.version import version
from reranker.data.assemble import RerankingData
from reranker.data.baseline_ranks import COLLABORATIVE, RANDOM
from reranker.data.candidate_lists import fingerprint
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.metrics import Ranks, summarise
from reranker.modeling.model_files import revision_of
from reranker.modeling.model_names import MODELS
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder
from tune.study_file.study import Study

FORMAT = 2  # of a study's folder
_LIBRARIES = ("ray", "torch", "transformers", "peft", "trl", "optuna", "mlflow")


def keep_baselines(study: Study, data: RerankingData, folder: StudyFolder) -> dict[str, Ranks]:
    """Every baseline's ranks on the study's validation lists, kept in its folder user by user."""
    lists = data.validation(study.base())
    users = [data.interactions.user_ids[example.user] for example in lists]
    baselines = data.baselines(study.base(), "validation")
    for name, ranks in baselines.items():
        if name != RANDOM:
            folder.baseline(name).path.mkdir(parents=True)
            folder.baseline(name).keep_ranks(users, ranks)
    return baselines


def keep_lists(study: Study, data: RerankingData, folder: StudyFolder) -> None:
    """What is known of the study's validation lists besides their ranks, kept in its folder for figures by segment."""
    ListFacts.of(data, data.validation(study.base())).keep(folder)


def keep_missing_lists(study: Study, data: RerankingData, folder: StudyFolder) -> None:
    """The same for a study that was begun before they were kept, or whose files of them are damaged, if its lists are
    still made as they were then."""
    try:
        ListFacts.of_study(folder)
    except EnvironmentFault:
        if fingerprint(data.validation(study.base())) == folder.read_manifest().get("lists"):
            keep_lists(study, data, folder)


def make_manifest(
    study: Study, data: RerankingData, tracking_uri: str, baselines: dict[str, Ranks], command: Sequence[str] = ()
) -> dict[str, Any]:
    """The study's identity, metric and searched knobs, the reference scores on its lists, versions and command.

    Args:
        tracking_uri: empty for the store in the study's folder, wherever that lies.
        command: that began the study, without secrets.
    """
    config = study.base()
    references = {"chance" if name == RANDOM else name: summarise(ranks) for name, ranks in baselines.items()}
    return {
        "format": FORMAT,
        "name": study.name,
        "study": study.dump(),
        "study_id": uuid.uuid4().hex,
        "fingerprint": study.fingerprint,
        "metric": study.metric,
        "knobs": study.knobs,
        "references": references,
        "lists": fingerprint(data.validation(config)),
        "ceiling": data.ceiling(config),
        "reports_per_epoch": study.reports_per_epoch,
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
            "validation_lists": len(data.validation(config)),
        },
        "tracking_uri": tracking_uri,
        "command": list(command),
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES}
        | {"python": sys.version.split()[0]},
    }


def reports_of(folder: StudyFolder) -> int:
    """The reports an epoch that a study was begun with; studies of before had one."""
    return int(folder.read_manifest().get("reports_per_epoch", 1))


def check_same(folder: StudyFolder, study: Study, data: RerankingData) -> None:
    """A study goes on only on the data and in the space that it was begun with.

    Raises:
        InputError: one of them has changed.
    """
    manifest = folder.read_manifest()
    faults = []
    if manifest["fingerprint"] != study.fingerprint:
        hint = "begin a new study, with --warm-start if the space overlaps"
        faults.append(Fault("metric, data, fixed knobs and space must stay as the study was begun with", hint=hint))
    if manifest["tags"]["data_fingerprint"] != data.interactions.fingerprint:
        faults.append(Fault("the data are not what the study was begun with", hint="begin a new study"))
    for model, revision in manifest.get("revisions", {}).items():
        if revision_of(model) not in ("", revision):
            rule = f"the model must stay the revision that the study was begun with, {revision[:12]}"
            hub = MODELS[model].hub if model in MODELS else model
            hint = f"hf download {hub} --revision {revision}, or begin a new study"
            faults.append(Fault(rule, field="model", value=model, hint=hint))
    reports = reports_of(folder)
    if study.settings.reports_per_epoch not in ("auto", reports):
        rule = f"must stay {reports}, as the study was begun with"
        faults.append(Fault(rule, field="study.reports_per_epoch", value=study.settings.reports_per_epoch))
    if data.adds_collaborative(study.base()) and COLLABORATIVE not in folder.baselines():
        rule = (
            "the study was begun before collaborative scores were added to the model's, so its trials can't be compared"
        )
        faults.append(Fault(rule, hint="begin a new study"))
    if faults:
        raise InputError(faults)


def _code_version() -> str:
    git = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"{version()}+{git.stdout.strip()}" if git.returncode == 0 and git.stdout.strip() else version()
