"""Check a study's folder against its journal and manifest → what was rebuilt, or which files are damaged.

A trial with lost files would silently be missing, and another one would win. So every command opens studies here:
everything in the journal must be in the folder. Files that others can restore are rebuilt, with a message; if any other
is damaged, there is no result.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reranker.artifacts.adapter_files import read_facts
from reranker.artifacts.trial_folder import TrialFolder, config_digest
from reranker.command_line.printable_text import say
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.metrics import METRIC_NAMES, Ranks, summarise
from reranker.report_figures import best_report, report_number
from reranker.storage.atomic_files import DamagedFile, as_line, read_yaml_text, write_file, write_yaml
from results.study.damaged_file import FileFinding, Outcome
from results.study.logged_reports import logged_reports
from results.study.optuna_journal import Journal, TrialRecord
from results.study.quarantine import put_aside
from results.study.stored_trial import TrialStatus
from results.study.study_folder import READINGS_BEGUN, READINGS_FROM_THE_START, StudyFolder
from results.study.trial_origin import Origin

_STATUS = {"complete": TrialStatus.COMPLETED, "pruned": TrialStatus.PRUNED, "fail": TrialStatus.FAILED}
_ROUNDING = 1e-6
_SHOWN = 5  # faults that are shown; in a badly damaged study the rest add nothing
_FIXED = ("study_id", "fingerprint", "metric", "lists", "tags")  # of a manifest: what stays as the study was begun
_READINGS_LOST = (
    "nobody can tell whether the test was read: restore it from a copy, or have the loss recorded with: "
    "reranker-tuner doctor {study}"
)


def open_study(runs: Path, name: str, tell: Callable[[str], None] | None = None) -> StudyFolder:
    """An existing study whose folder agrees with its journal and manifest.

    Args:
        tell: receives a sentence for each rebuilt file; default: print to standard error.

    Raises:
        EnvironmentFault: there is none.
        DamagedFile, EnvironmentFault: one or several files are lost.
    """
    study = StudyFolder.open(runs, name)
    for sentence in check(study):
        (tell or _to_stderr)(sentence)
    return study


def open_studies(runs: Path, names: Sequence[str]) -> list[StudyFolder]:
    """Existing studies, each once, whatever it is named by; see `open_study` and `told_apart`."""
    return told_apart([open_study(runs, name) for name in dict.fromkeys(names)])


def told_apart(studies: Sequence[StudyFolder]) -> list[StudyFolder]:
    """Each of the studies once; those of one name, such as a copy and its original, are called by their folders."""
    each = dict.fromkeys(studies)
    counts = Counter(study.name for study in each)
    return [study if counts[study.name] == 1 else _CalledByFolder(study.path) for study in each]


class _CalledByFolder(StudyFolder):
    """A study beside another of its name."""

    @property
    def name(self) -> str:
        return str(self.path)


def check(study: StudyFolder) -> list[str]:
    """Rebuild the files that others can restore; returns a sentence for each.

    Raises:
        DamagedFile, EnvironmentFault: one or several files are lost for good; names them.
    """
    findings = inspect(study)
    lost = [finding.damage for finding in findings if finding.outcome is Outcome.REFUSED]
    if len(lost) == 1:
        raise lost[0]
    if lost:
        lines = [str(fault) for fault in lost[:_SHOWN]]
        more = len(lost) - len(lines)
        raise EnvironmentFault("\n".join([*lines, *([f"… and {more} more files like these"] if more else [])]))
    return [str(finding) for finding in findings]


def inspect(study: StudyFolder) -> list[FileFinding]:
    """Every file that a verdict depends on and that is damaged; what others can restore is rebuilt."""
    inspection = _Check(study)
    try:
        inspection.run()
    except DamagedFile as damage:  # without it nothing else can be checked
        inspection.refuse(damage)
    return inspection.findings


def check_readings(study: StudyFolder) -> None:
    """Check that every reading of the test is on record, in the journal and in its file alike.

    Raises:
        DamagedFile: the record is lost, or not the same in both.
    """
    inspection = _Check(study, only_look=True)
    inspection.journal, inspection.manifest = Journal(study.journal), study.read_manifest()
    inspection.readings()
    for finding in inspection.findings:
        raise finding.damage


class ForeignFile(DamagedFile):
    """A file that is whole, and another trial's."""


class _Check:
    """One check of a study.

    Args:
        only_look: what could be rebuilt is refused.

    Attributes:
        findings: what was found, in order.
    """

    def __init__(self, study: StudyFolder, *, only_look: bool = False) -> None:
        self.study, self._only_look = study, only_look
        self.findings: list[FileFinding] = []

    def run(self) -> None:
        """Check every file.

        Raises:
            DamagedFile: without this one no other can be checked.
        """
        self.journal = Journal(self.study.journal)
        self.manifest = self._manifest()
        self._study_file()
        self._ending()
        records = self.journal.trials()
        left_out = self.study.left_out()
        for number, record in records.items():
            if number not in left_out:
                self._trial(number, record)
        for number in self.study.numbers():
            if number not in records and number not in left_out:
                self.refuse(DamagedFile(self.study.journal, f"does not know trial {number}, which the folder has"))
        self._baselines()
        self.readings()

    def refuse(self, damage: DamagedFile) -> None:
        """Note a file that nothing can restore."""
        self.findings.append(FileFinding(damage, Outcome.REFUSED, damage.remedy))

    def _manifest(self) -> dict[str, Any]:
        begun = self.journal.manifest
        try:
            manifest = self.study.read_manifest()
            if begun is not None and (
                other := next((name for name in _FIXED if manifest.get(name) != begun.get(name)), "")
            ):
                raise DamagedFile(self.study.path / "manifest.json", f"has another {other} than the journal")
            return manifest
        except DamagedFile as damage:
            if begun is None:
                raise
            manifest = begun | {"name": begun.get("name", self.study.path.name)}
            with contextlib.suppress(DamagedFile):  # the search may have gone on with more trials since
                manifest |= {"study": read_yaml_text(self.study.study_file)}
            self._rebuild(damage, "the journal", lambda: self.study.write_manifest(manifest))
            return manifest

    def _study_file(self) -> None:
        text, path = self.manifest.get("study"), self.study.study_file
        try:
            if read_yaml_text(path) != text and text is not None:
                raise DamagedFile(path, "is not the study of manifest.json")
        except DamagedFile as damage:
            if text is None:
                self.refuse(damage)
            else:
                self._rebuild(damage, "the manifest", lambda: write_yaml(path, text))

    def _ending(self) -> None:
        try:
            self.study.read_ending()
        except DamagedFile as damage:
            self._rebuild(
                damage,
                "",
                lambda: self.study.write_ending("not known, since ending.json was damaged", complete=False),
                "why the search ended is not known any more",
            )

    # Trials

    def damage_of(self, number: int, record: TrialRecord) -> DamagedFile | None:
        """The first file of a trial that is lost for good; None if the trial is sound."""
        self.journal = Journal(self.study.journal)
        self.manifest, before = self._manifest(), len(self.findings)
        self._trial(number, record)
        lost = (finding for finding in self.findings[before:] if finding.outcome is Outcome.REFUSED)
        return next((finding.damage for finding in lost), None)

    def _trial(self, number: int, record: TrialRecord) -> None:
        folder = self.study.trial(number)
        if not folder.path.exists() and not record.reports and record.state != "complete":
            return  # not started, or killed before its folder was made
        try:
            if not folder.path.exists():
                raise DamagedFile(folder.path, "is missing")
            self._status(number, record)
            self._config(number, folder, record.config)
            self._epochs(folder, record)
        except DamagedFile as damage:
            remedy = f"restore it from a copy, or leave the trial out with: {_leave_out(self.study, number)}"
            self.refuse(DamagedFile(damage.path, damage.damage, remedy))

    def _status(self, number: int, record: TrialRecord) -> None:
        journal_status = _STATUS.get(record.state)
        cause = record.cause or (
            "its cause was lost with its status.json" if journal_status is TrialStatus.FAILED else ""
        )
        status = journal_status or TrialStatus.CANCELLED

        def write() -> None:
            self.study.write_status(number, status, cause, ours=record.ours, origin=record.origin)

        try:
            facts = self.study.read_status(number)
            stored, told = TrialStatus(facts["status"]), Origin.parse(facts.get("origin", ""))
            path = self.study.trial(number).path / "status.json"
            is_late = stored not in _STATUS.values() and self.study.is_searched()  # the journal is told first
            if journal_status and stored is not journal_status and not is_late:
                raise DamagedFile(path, f"says {stored.value}, the journal {journal_status.value}")
            if record.config and told != record.origin:  # older journals do not know every origin
                said, known = (f"trial {number} ({origin})".replace(" ()", "") for origin in (told, record.origin))
                raise DamagedFile(path, f"says {said}, the journal {known}")
        except DamagedFile as damage:
            self._rebuild(damage, "the journal", write)

    def _config(self, number: int, folder: TrialFolder, known_by: str) -> None:
        path = folder.path / "config.json"
        try:
            stored = folder.read_config()
            is_own = folder.config_digest() == known_by if known_by else _config_in(folder.adapter) in (None, stored)
            if not is_own:
                raise ForeignFile(path, f"is not the configuration of trial {number}")
        except DamagedFile as damage:
            in_adapter = _config_in(folder.adapter)
            if in_adapter is None or (known_by and _digest_in(folder.adapter) != known_by):
                raise
            if isinstance(damage, ForeignFile) and not known_by:
                raise  # one of the two is another trial's, and nothing says which
            self._rebuild(damage, "its adapter", lambda: folder.write_config(in_adapter))

    def _epochs(self, folder: TrialFolder, record: TrialRecord) -> None:
        """The figures must be the journal's, and every report must have the ranks that give its figures."""
        path, metric = folder.path / "epochs.jsonl", self.manifest["metric"]
        try:
            stored = self._as_recorded(path, folder.read_reports(), record)
        except DamagedFile as damage:
            logged = logged_reports(folder)
            try:
                stored = self._as_recorded(path, logged, record)
            except DamagedFile:
                raise damage from None
            if not stored or (self._ranked and not all(_gives(folder.read_report(n), f) for n, f in stored.items())):
                raise
            self._rebuild(damage, "its train.log", lambda: write_file(path, "".join(map(as_line, logged))))
        if not stored or not self._ranked:
            return
        for number, figures in stored.items():
            if not _gives(folder.read_report(number), figures):
                raise DamagedFile(
                    folder.report(number), f"gives other figures than report {number} of epochs.jsonl has"
                )
        chosen = best_report(stored.values(), metric)
        if chosen is not None:
            self._best_ranks(folder, report_number(chosen), running=record.state == "running")

    @property
    def _ranked(self) -> bool:
        """Whether reports keep the ranks of lists."""
        return bool(self.manifest["plan"].get("validation_lists"))

    def _as_recorded(self, path: Path, reports: list[dict[str, Any]], record: TrialRecord) -> dict[int, dict[str, Any]]:
        """The figures by report, which must be all those of the journal.

        Raises:
            DamagedFile: they are not.
        """
        metric = self.manifest["metric"]
        stored = {report_number(figures): figures for figures in reports}
        if twice := next((number for number, count in Counter(map(report_number, reports)).items() if count > 1), 0):
            raise DamagedFile(path, f"has report {twice} more than once")
        for number, value in record.reports.items():
            if number not in stored:
                raise DamagedFile(path, f"lacks report {number}, which the journal knows")
            if stored[number].get(metric) != value:
                raise DamagedFile(path, f"says {stored[number].get(metric)} of report {number}, the journal {value}")
        return stored

    def _best_ranks(self, folder: TrialFolder, chosen: int, *, running: bool) -> None:
        """`ranks.parquet` must be the chosen report's; in a running trial it may be a newer one."""
        path, ranks = folder.path / "ranks.parquet", folder.read_report(chosen)
        try:
            stored = folder.read_ranks_alone()
            is_same = np.array_equal(stored.greater, ranks.greater) and np.array_equal(stored.ties, ranks.ties)
            if not is_same and not running:
                raise DamagedFile(path, f"is not that of report {chosen}, the best one")
        except DamagedFile as damage:
            users = next((ids for ids in self._user_ids() if len(ids) == len(ranks.greater)), [])
            if not users:
                raise
            picks = folder.read_report_picks(chosen)
            self._rebuild(damage, "its reports", lambda: folder.keep_ranks(users, ranks, picks))

    def _user_ids(self) -> Iterator[list[str]]:
        """The ids of the users with ranked lists, from each baseline; all are the same."""
        for name in self.study.baselines():
            with contextlib.suppress(DamagedFile):
                yield self.study.baseline(name).read_user_ids()

    # Baselines and the sealed test

    def _baselines(self) -> None:
        reported = {**self.manifest["references"], **self.journal.baselines}
        for name, figures in reported.items():
            if name == "chance":
                continue
            try:
                folder = self.study.baseline(name)
                if folder.read_figures() == {} and name in self.journal.baselines and name.startswith("zero-shot"):
                    raise DamagedFile(folder.path / "figures.json", "is missing")
                if not _gives(folder.read_ranks()[1], figures):
                    raise DamagedFile(folder.path / "ranks.parquet", "gives other figures than were reported")
            except DamagedFile as damage:
                self.refuse(damage)

    def readings(self) -> None:
        """Check that both the journal and the file hold every reading, so that none is lost with one of them."""
        path, recorded = self.study.readings_file, self.journal.readings
        try:
            form = self.manifest.get("format", 0)
            if not path.exists() and form >= READINGS_FROM_THE_START:
                raise DamagedFile(path, "is missing")
            if form >= READINGS_BEGUN and not self.study.readings_are_begun():
                raise DamagedFile(path, "has lost its beginning")
            stored = self.study.readings()
            if stored[: len(recorded)] != recorded[: len(stored)]:
                self.refuse(DamagedFile(path, "holds another reading of the test than the journal"))
                return
        except DamagedFile as damage:
            if not recorded:
                self.refuse(
                    DamagedFile(path, damage.damage, _READINGS_LOST.format(study=shlex.quote(str(self.study.path))))
                )
                return
            stored = []
        if len(stored) < len(recorded):
            count = f"{len(recorded)} reading" + "s" * (len(recorded) != 1)
            missing = DamagedFile(path, f"lacks what the journal knows: {count} of the test")
            self._rebuild(missing, "the journal", lambda: self.study.write_readings(recorded))
        elif len(stored) > len(recorded):
            self.refuse(DamagedFile(self.study.journal, "lacks a reading of the test that test_readings.jsonl has"))

    def _rebuild(self, damage: DamagedFile, source: str, write: Callable[[], None], instead: str = "") -> None:
        """Write a file again, unless a search is running, which may be writing it. What was there is put aside."""
        if self._only_look:
            self.refuse(damage)
            return
        with self.study.locked():
            kept = put_aside(self.study, damage.path)
            write()
        done = instead or f"it was rebuilt from {source}"
        if kept is not None:
            done += f", and what was there is {kept.relative_to(self.study.path)} now"
        self.findings.append(FileFinding(damage, Outcome.REBUILT, done))


def _gives(ranks: Ranks, figures: Mapping[str, float]) -> bool:
    """Whether the figures follow from these ranks."""
    if not len(ranks.greater):
        return False
    scored = summarise(ranks)
    return all(abs(scored[name] - figures[name]) < _ROUNDING for name in METRIC_NAMES if name in figures)


def _config_in(adapter: Path) -> TrialConfig | None:
    """The configuration that an adapter was trained by; None where there is no adapter that says so."""
    try:
        return TrialConfig.model_validate_json(json.dumps(read_facts(adapter)["config"]))
    except (DamagedFile, ValueError, KeyError, TypeError):
        return None


def _digest_in(adapter: Path) -> str:
    """The digest of that configuration as it is stored."""
    return config_digest(read_facts(adapter)["config"])


def _leave_out(study: StudyFolder, number: int) -> str:
    return f"reranker-tuner doctor {shlex.quote(str(study.path))} --leave-out {number}"


def _to_stderr(sentence: str) -> None:
    say(sentence, error=True)


def leave_out(study: StudyFolder, number: int) -> None:
    """Exclude a damaged trial. Sound trials can't be excluded, since that would be picking results.

    Raises:
        InputError: the trial is not damaged, or there is none with this number.
    """
    records = Journal(study.journal).trials()
    if number not in records:
        raise InputError([Fault("there is no such trial", field="--leave-out", value=number)])
    with study.locked():
        pass
    inspection = _Check(study)
    damage = inspection.damage_of(number, records[number])
    if damage is None:
        raise InputError([Fault("only a damaged trial can be left out", field="--leave-out", value=number)])
    study.leave_out(number, f"{damage.path.name} {damage.damage}")
    study.record_act(f"trial {number} is left out: {damage.path.name} {damage.damage}")
