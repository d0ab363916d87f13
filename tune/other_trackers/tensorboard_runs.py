"""A study's folder → TensorBoard's files under `trackers/tensorboard`: a run a trial and a baseline, and one for the study.

What the files of a run have is read when it is first looked at, point by point; what they lack is written into a new file
beside them. So nothing is there twice, and a file whose end was torn by a kill loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from torch.utils.tensorboard import SummaryWriter

from reranker.storage.atomic_files import writing
from reranker.storage.yaml_lines import dump
from results.leaderboard import standing
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from tune.mirroring.run_names import configuration_of, run_name, text
from tune.mirroring.tracked_figures import FINAL, applied, between_reports, last_step, of_rankers, points
from tune.mirroring.tracked_outcome import Outcome
from tune.other_trackers.tracker_files import tensorboard_folder

_START, _END = metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG  # of the HParams tab
_ALL = {"scalars": 0, "tensors": 0}  # TensorBoard else reads a sample
_TEXT = "/text_summary"  # what torch adds to the name of a text


class TensorBoardRuns:
    """Brings TensorBoard's files up to a study's folder, as often as it is asked to."""

    def __init__(self, study: StudyFolder) -> None:
        self.study, self.folder = study, tensorboard_folder(study)
        self._runs: dict[str, _Run] = {}
        self._ended: dict[int, tuple[TrialStatus, int]] = {}  # trial → its end, with the number of its reports
        self._rankers: set[str] = set()  # chance and baselines that are drawn …
        self._reach = 0  # … up to this step

    def bring_up(self, *, ended: bool = False) -> None:
        """See `tune.mirroring.mirror_thread.Mirror`.

        Raises:
            OSError: a file can't be written.
        """
        try:
            with writing(self.folder):
                self._bring_up(ended=ended)
        except Exception:
            self._runs, self._ended, self._rankers = {}, {}, set()  # read again what has arrived
            raise

    def _bring_up(self, *, ended: bool) -> None:
        metric, knobs = self.study.read_manifest()["metric"], self.study.read_manifest()["knobs"]
        longest = 1
        for trial in standing(self.study):
            longest = max(longest, last_step(trial))
            if self._ended.get(trial.number) != (trial.status, len(trial.reports)):
                self._send(trial, metric, knobs)
        if longest > self._reach or {"chance", *self.study.baselines()} - self._rankers:
            for name, figures in of_rankers(self.study).items():
                run = self._run(f"baseline-{quote(name, safe=' ,')}")
                for step in (0, longest):  # a level line
                    run.scalars(figures, step)
                self._rankers.add(name)
            self._reach = longest
        if ended:
            self._close()
        for run in self._runs.values():
            run.flush()

    def _run(self, name: str) -> _Run:
        if name not in self._runs:
            self._runs[name] = _Run(self.folder / name)
        return self._runs[name]

    def _send(self, trial: StoredTrial, metric: str, knobs: list[str]) -> None:
        run = self._run(f"trial-{trial.number:03d}")
        run.begin({knob: _plain(trial.values[knob]) for knob in knobs}, group=f"{configuration_of(trial):03d}")
        run.text("config", f"{run_name(trial, knobs)}\n\n{_code(dump(trial.values))}")
        for point in points(trial, metric):
            run.scalars({**point.figures, **point.best}, point.step)
        for examples, figures in between_reports(self.study, trial.number):
            run.scalars(figures, examples)
        run.text("status", "; ".join(filter(None, [trial.status.value, trial.cause, *trial.notes])))
        if trial.status is TrialStatus.RUNNING:
            return
        if last := applied(trial):
            run.text("applied", _code(dump(last)))
        if trial.status in FINAL:
            run.end(failed=trial.status is TrialStatus.FAILED)
        run.close()
        self._ended[trial.number] = (trial.status, len(trial.reports))

    def _close(self) -> None:
        outcome, run = Outcome.of(self.study), self._run("study")
        run.scalars(outcome.figures, 0, replace=True)
        for i, reading in enumerate(self.study.readings(), start=1):
            run.scalars({f"test/{name}": value for name, value in reading["figures"].items()}, i)
        ending = self.study.read_ending()
        said = "complete" if ending["complete"] else ending["reason"] or "interrupted"
        table = [f"| {name} | {result} |" for name, result in outcome.proven.items()]
        run.text("found", "\n".join([said, "", "| trial or baseline | what is proven |", "| --- | --- |", *table]))
        for other in self._runs.values():
            other.close()


class _Run:
    """One run's folder: what its files have, and a writer for what they lack."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: SummaryWriter | None = None
        self._points: dict[str, dict[int, float]] = {}
        self._texts: dict[str, str] = {}
        self._marks: set[str] = set()  # of the HParams tab
        if any(path.glob("events.out.tfevents.*")):
            self._read()

    def _read(self) -> None:
        events = EventAccumulator(str(self._path), size_guidance=_ALL)
        events.Reload()
        tags = events.Tags()
        self._points = {tag: {point.step: point.value for point in events.Scalars(tag)} for tag in tags["scalars"]}
        for tag in tags["tensors"]:
            if tag.endswith(_TEXT):
                self._texts[tag.removesuffix(_TEXT)] = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
        for tag in (_START, _END):
            if tag in tags["tensors"] or tag in events.summary_metadata:
                self._marks.add(tag)

    @property
    def _open(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._path))
        return self._writer

    def begin(self, knobs: Mapping[str, bool | float | str], group: str) -> None:
        """For the HParams tab: the searched knobs; what repeats a trial with another seed is in one group with it."""
        if _START not in self._marks:
            begun = SessionStartInfo(group_name=group, start_time_secs=time.time())
            for knob, value in knobs.items():
                kind = "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"
                setattr(begun.hparams[knob], f"{kind}_value", value)
            self._mark(_START, HParamsPluginData(session_start_info=begun))

    def end(self, *, failed: bool) -> None:
        """For the HParams tab: how it ended."""
        if _END not in self._marks:
            status = api_pb2.STATUS_FAILURE if failed else api_pb2.STATUS_SUCCESS
            ending = SessionEndInfo(status=status, end_time_secs=time.time())
            self._mark(_END, HParamsPluginData(session_end_info=ending))

    def _mark(self, tag: str, content: HParamsPluginData) -> None:
        summary, about = Summary(), metadata.create_summary_metadata(content)
        summary.value.add(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
        writer: Any = self._open.file_writer
        writer.add_summary(summary, 0)
        self._marks.add(tag)

    def scalars(self, figures: Mapping[str, float], step: int, *, replace: bool = False) -> None:
        """Those that are not there yet.

        Args:
            replace: write one again whose value has changed; the last one counts.
        """
        for name, value in figures.items():
            points = self._points.setdefault(name, {})
            if step in points and not (replace and abs(points[step] - value) > 1e-6 * abs(value)):
                continue
            self._open.add_scalar(name, value, step)
            points[step] = value

    def text(self, name: str, content: str) -> None:
        """If it does not say so already."""
        if self._texts.get(name) != content:
            self._open.add_text(name, content)
            self._texts[name] = content

    def flush(self) -> None:
        """Have what was written on disk."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Until something is written again, into a new file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _plain(value: Any) -> bool | float | str:
    return value if isinstance(value, bool | int | float | str) else text(value)


def _code(lines: str) -> str:
    return "".join(f"    {line}\n" for line in lines.splitlines())
