"""The file of events: a line a report and an end, nothing twice, whatever is killed in between."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reranker.storage.atomic_files import DamagedFile, append_line
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.stored import report
from tests.tracked import USERS, add_trial, figures, ranks
from tune.other_trackers.json_lines import JsonLines
from tune.other_trackers.tracker_files import events_file


def events(study: StudyFolder, kind: str = "", trial: int | None = None) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in events_file(study).read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if kind in ("", line["event"]) and (trial is None or line.get("trial") == trial)]


def deliver(study: StudyFolder, *, ended: bool = True) -> list[dict[str, Any]]:
    """By a new process, which knows nothing but the file."""
    JsonLines(study).bring_up(ended=ended)
    return events(study)


def test_each_report_and_end_is_a_line_with_mlflow_s_figures_and_steps(study):
    deliver(study)
    reports = events(study, "report", 0)
    assert [(r["report"], r["epoch"], r["examples"]) for r in reports] == [(1, 1, 4000), (2, 2, 8000), (3, 3, 12000)]
    assert [r["figures"]["ndcg_at_10"] for r in reports] == [0.30, 0.41, 0.35]
    assert [r["best"]["best/ndcg_at_10"] for r in reports] == [0.30, 0.41, 0.41]
    assert reports[0]["figures"]["label_mass"] == 0.9
    assert not [name for name in reports[0]["figures"] if name.startswith("applied/")]
    (begun,) = events(study, "trial", 0)
    assert (begun["name"], begun["configuration"]) == ("000 demo-tiny lr 0.01", 0)
    assert begun["config"]["learning_rate"] == 0.01
    ends = {line["trial"]: (line["status"], line["cause"], line["reports"]) for line in events(study, "trial_end")}
    assert ends == {0: ("completed", "", 3), 1: ("pruned", "", 1), 2: ("failed", "diverged in epoch 1", 0)}
    (end,) = events(study, "trial_end", 0)
    assert (end["best"]["epoch_of_best"], end["applied"]["applied/optimizer_steps"]) == (2, 750)


def test_the_study_its_baselines_and_what_was_found_are_lines_too(study):
    first, last = deliver(study)[0], deliver(study)[-1]
    assert (first["event"], first["format"], first["study"]) == ("study", 1, study.name)
    assert (first["metric"], first["knobs"]) == ("ndcg_at_10", ["learning_rate", "model"])
    assert {line["baseline"] for line in events(study, "baseline")} == {"chance", "popularity"}
    assert events(study, "baseline")[0]["figures"]["recall_at_1"] == 0.05
    assert (last["event"], last["complete"], last["winner"]) == ("study_end", True, 0)
    assert last["figures"]["best/ndcg_at_10"] == 0.41
    assert last["proven"]["0"] == "winner"


def test_delivering_again_adds_no_line(study):
    before = deliver(study, ended=False)
    assert [line["event"] for line in before if line["event"] == "study_end"] == []
    once = deliver(study)
    assert deliver(study) == once
    assert once[: len(before)] == before


def test_a_trial_that_was_cut_short_goes_on_and_its_last_end_counts(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        deliver(study, ended=False)
    assert events(study, "trial_end", 3) == []
    deliver(study, ended=False)  # the search was killed
    deliver(study, ended=False)
    with study.locked():
        report(study.trial(3), USERS, ranks(3.0), **figures(2, 0.3))
        deliver(study, ended=False)
    study.write_status(3, TrialStatus.COMPLETED)
    deliver(study)
    assert [line["report"] for line in events(study, "report", 3)] == [1, 2]
    assert [line["status"] for line in events(study, "trial_end", 3)] == ["interrupted", "completed"]


def test_steps_between_two_reports_are_there_by_examples_once(study):
    add_trial(study, 3, [])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        for examples, loss in [(40, 2.9), (80, 2.7)]:
            study.trial(3).append_step({"examples": examples, "loss": loss})
        deliver(study, ended=False)
        study.trial(3).append_step({"examples": 120, "loss": 2.6})
        deliver(study, ended=False)
    steps = [(line["examples"], line["figures"]) for line in events(study, "step", 3)]
    assert steps == [(40, {"step/loss": 2.9}), (80, {"step/loss": 2.7}), (120, {"step/loss": 2.6})]


def test_a_line_that_was_torn_by_a_kill_is_mended(study):
    whole = deliver(study)
    lines = events_file(study).read_bytes().splitlines(keepends=True)
    for cut in (1, len(lines[-1]) - 1):
        events_file(study).write_bytes(b"".join(lines)[:-cut])
        assert [{**line, "time": ""} for line in strip(deliver(study))] == [
            {**line, "time": ""} for line in strip(whole)
        ]


def strip(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "checksum"} for line in lines]


def test_what_json_has_no_number_for_is_null(study):
    add_trial(study, 3, [0.2])
    study.trial(3).append_report({**figures(2, 0.3), "val_loss": float("nan")})
    deliver(study, ended=False)
    assert [line["figures"]["val_loss"] for line in events(study, "report", 3)] == [2.8, None]
    assert deliver(study, ended=False) == deliver(study, ended=False)


@pytest.mark.parametrize("line", ['{"event": "report"}\n', "mine\n"])
def test_a_file_that_is_not_ours_is_named_with_the_remedy(study, line):
    events_file(study).parent.mkdir()
    events_file(study).write_text(line)
    with pytest.raises(DamagedFile, match=r"events\.jsonl is damaged.*; delete it, and it will be written again"):
        deliver(study)


def test_a_reading_of_the_test_is_a_line_once(study):
    deliver(study)
    reading = {"time": "2026-11-24 12:00:00", "trial": 0, "figures": {"ndcg_at_10": 0.38}}
    append_line(study.path / "test_readings.jsonl", reading)
    deliver(study)
    deliver(study)
    (line,) = events(study, "test_reading")
    assert (line["reading"], line["trial"], line["at"]) == (1, 0, "2026-11-24 12:00:00")
    assert line["figures"] == {"ndcg_at_10": 0.38}
