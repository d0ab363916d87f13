"""A study's files that no verdict depends on → which are damaged; those are put aside, and what is sound of them is kept.

Such as adapters, training states, notes, acts, and the facts of its lists. `results.study.checked_folder` has the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from reranker.artifacts.adapter_files import ADAPTER_FACTS, check_adapter
from reranker.artifacts.trial_folder import NOTE, STEP, TrialFolder
from reranker.errors import EnvironmentFault
from reranker.report_figures import best_report
from reranker.storage.atomic_files import DamagedFile, Fields, as_line, read_json, read_lines, sound_lines, write_file
from results.study.damaged_file import FileFinding, Outcome
from results.study.list_facts import ListFacts
from results.study.quarantine import put_aside
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder

_LISTS = ("lists.parquet", "items.parquet")


def inspect_side_files(study: StudyFolder) -> Iterator[FileFinding]:
    """Every one that is damaged, and what was done about it. Reads all adapters, which takes a while.

    The study must be one that `results.study.checked_folder` finds whole, and no search may run in it.
    """
    yield from _lines(study, study.path / "acts.jsonl", {"time": str, "act": str})
    yield from _facts_of_lists(study)
    for number in study.numbers():
        yield from _trial(study, number)
    if study.refit.adapter.is_dir():
        yield from _refused(lambda: check_adapter(study.refit.adapter), "train it again, with --resume STUDY --refit")


def _trial(study: StudyFolder, number: int) -> Iterator[FileFinding]:
    folder = study.trial(number)
    for name, fields in (("steps.jsonl", STEP), ("notes.jsonl", NOTE)):
        yield from _lines(study, folder.path / name, fields)
    for name in ("keep.json", "stop.json"):
        if (folder.path / name).exists():
            yield from _put_aside(study, folder.path / name, lambda path: read_json(path), "ask for it again")
    for state in folder.states():
        if not folder.is_whole(state):
            put_aside(study, state)
            done = "it was put aside; the training goes on from the state before, to the same results"
            yield FileFinding(DamagedFile(state, "is damaged"), Outcome.QUARANTINED, done)
    if folder.adapter.is_dir():
        ended = TrialStatus(study.read_status(number)["status"]) in (TrialStatus.COMPLETED, TrialStatus.PRUNED)
        metric = study.read_manifest()["metric"]
        done = "the trial's figures stand, but it can't be used; restore it from a copy, or train its config.json again"
        yield from _refused(lambda: check_kept_adapter(folder, metric, ended=ended), done)


def check_kept_adapter(folder: TrialFolder, metric: str, *, ended: bool = True) -> None:
    """Check that a trial's adapter is whole, the trial's own, and that of its best report.

    Args:
        ended: whether the trial has; in one that runs, the adapter may be of a report that does not count yet.

    Raises:
        DamagedFile: it is not.
    """
    facts, best = check_adapter(folder.adapter), best_report(folder.read_reports(), metric)
    if ended and best is not None and facts.get("epoch", best["epoch"]) != best["epoch"]:
        damage = f"is of epoch {facts['epoch']:g}, and the trial's best is {best['epoch']:g}"
        raise DamagedFile(folder.adapter / ADAPTER_FACTS, damage)


def _lines(study: StudyFolder, path: Path, fields: Fields) -> Iterator[FileFinding]:
    """Keep the sound lines of a damaged file of lines."""
    try:
        read_lines(path, fields)
    except DamagedFile as damage:
        try:
            sound, lost = sound_lines(path, fields)
        except DamagedFile:  # not even bytes
            sound, lost = [], 0
        put_aside(study, path)
        write_file(path, "".join(as_line(record) for record in sound))
        done = f"it was put aside, and its {len(sound)} sound lines were kept" + (f", {lost} are lost" if lost else "")
        yield FileFinding(damage, Outcome.QUARANTINED, done)


def _facts_of_lists(study: StudyFolder) -> Iterator[FileFinding]:
    if ListFacts.missing(study):
        return
    try:
        ListFacts.of_study(study)
    except DamagedFile as damage:
        for name in _LISTS:
            put_aside(study, study.path / name)
        done = "both files of the lists were put aside: no figures by segment until --resume STUDY makes them again"
        yield FileFinding(damage, Outcome.QUARANTINED, done)


def _put_aside(study: StudyFolder, path: Path, read: Callable[[Path], object], otherwise: str) -> Iterator[FileFinding]:
    try:
        read(path)
    except DamagedFile as damage:
        put_aside(study, path)
        yield FileFinding(damage, Outcome.QUARANTINED, f"it was put aside: {otherwise}")


def _refused(check: Callable[[], object], done: str) -> Iterator[FileFinding]:
    try:
        check()
    except DamagedFile as damage:
        yield FileFinding(damage, Outcome.REFUSED, done)
    except EnvironmentFault as fault:
        yield FileFinding(DamagedFile(Path(fault.filename or ""), str(fault)), Outcome.REFUSED, done)
