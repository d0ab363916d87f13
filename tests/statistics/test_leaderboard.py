"""A study's folder and its leaderboard."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.metrics import METRIC_NAMES, Ranks, chance
from reranker.storage.atomic_files import write_file, write_yaml, writing
from results import compare, diagnose
from results.leaderboard import leaderboard, pretty
from results.reporting.joint_leaderboard import joint_leaderboard
from results.statistics import comparison
from results.statistics.comparison import winner
from results.statistics.verdict_text import verdict
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import keep_journal, report
from tune.searching.stop_rules import INTERRUPTED, TOO_MANY_FAILURES
from tune.terminal.exit_status import exit_code, tell_webhook


def figures(epoch: float, recall: float) -> dict[str, Any]:
    return {
        **dict.fromkeys(METRIC_NAMES, recall), "epoch": epoch, "train_loss": 3 - recall, "val_loss": 3 - recall,
        "seconds": 10.0 * epoch, "tokens_per_second": 1e4, "peak_memory_mb": 500.0,
        "applied/learning_rate": 1e-2, "applied/optimizer_steps": 250 * epoch, "applied/examples": 4000 * epoch,
    }  # fmt: skip


USERS = [f"u{number}" for number in range(100)]


def first_for(share: float) -> Ranks:
    """The true item first for this share of users and last for the others, so that all metrics are the same."""
    return Ranks(np.where(np.arange(100) < round(100 * share), 0, 19), np.zeros(100, np.int64))


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Three trials: one whose middle epoch is the best, one stopped, one failed before its first epoch."""
    folder = StudyFolder.create(tmp_path, "films")
    folder.write_manifest(
        {
            "study_id": "abc", "metric": "ndcg_at_10", "knobs": ["learning_rate", "model"],
            "references": {"popularity": dict.fromkeys(METRIC_NAMES, 0.13), "chance": chance(20)},
            "best_reachable_recall_at_1": 0.49, "tags": {"data_fingerprint": "f00", "code_version": "0.1.0"},
            "plan": {"metric": "ndcg_at_10", "trials": 3, "candidates": 20, "validation_lists": 2000}, "tracking_uri": "",
        }
    )  # fmt: skip
    write_yaml(folder.study_file, "study: {name: films}\ndata: {source: demo}\n")
    for number, scores in enumerate([[0.30, 0.41, 0.35], [0.12], []]):
        config = TrialConfig(model="demo-tiny", learning_rate=10.0**-number / 100, epochs=3)
        folder.start_trial(number, config)
        for epoch, score in enumerate(scores, start=1):
            report(folder.trial(number), USERS, first_for(score), **figures(epoch, score))
        folder.trial(number).adapter.mkdir()
        (folder.trial(number).adapter / "adapter_config.json").write_text("{}")
    folder.write_status(0, TrialStatus.COMPLETED)
    folder.write_status(1, TrialStatus.PRUNED)
    folder.write_status(2, TrialStatus.FAILED, cause="diverged in epoch 1")
    folder.baseline("popularity").path.mkdir(parents=True)
    folder.baseline("popularity").keep_ranks(USERS, first_for(0.13))
    write_file(folder.leaderboard, leaderboard(folder).to_csv(index=False))
    return keep_journal(folder)


def test_the_leaderboard_has_the_best_epoch_of_each_trial_and_the_references(study):
    table = leaderboard(study)
    assert list(table["name"]) == ["trial 0", "chance", "popularity", "trial 1", "trial 2"]
    assert list(table["kind"]) == ["trial", "chance", "baseline", "trial", "trial"]
    assert table["status"].fillna("").tolist() == ["completed", "", "", "pruned", "failed"]
    assert table["rank"].tolist()[:4] == [1, 2, 3, 4]
    assert pd.isna(table["rank"][4])
    assert table.iloc[0][["epoch", "recall_at_1", "seconds"]].tolist() == [2, 0.41, 30.0]
    assert table.loc[0, "learning_rate"] == 0.01


def test_the_leaderboard_has_the_columns_that_others_rely_on(study):
    expected = (
        "rank,name,kind,status,epoch,recall_at_1,recall_at_5,recall_at_10,ndcg_at_5,ndcg_at_10,mrr_at_10,"
        "train_loss,val_loss,seconds,learning_rate,model"
    )
    assert study.leaderboard.read_text().split("\n")[0] == expected


REASON = "it inverts a matrix of items by items, so that it takes 8,000 items at most; there are 9,001"


def test_a_baseline_that_was_left_out_is_in_the_table_with_the_reason(study, capsys):
    study.write_manifest(study.read_manifest() | {"left_out_baselines": {"ease": REASON}})
    table = leaderboard(study).set_index("name")
    assert list(table.loc["ease", ["kind", "status", "reason"]]) == ["baseline", "left out", REASON]
    assert table.loc["ease", ["rank", *METRIC_NAMES]].isna().all()
    assert int(table["rank"].notna().sum()) == 4
    write_file(study.leaderboard, leaderboard(study).to_csv(index=False))
    assert compare.main(["films", "--runs", str(study.path.parent)]) == 0
    out = capsys.readouterr().out
    assert f"ease is left out: {REASON}" in out
    assert any(line.split()[:3] == ["ease", "left", "out"] for line in out.splitlines())
    assert diagnose.main(["--table", str(study.leaderboard), "--users", "300", "--candidates", "20"]) == 0
    assert not re.search(r"\bease\b", capsys.readouterr().out), "it has no figures to hold a trial against"


def test_a_baseline_that_one_of_two_studies_left_out_has_the_figures_of_the_other(study, tmp_path):
    other = StudyFolder(tmp_path / "other" / "films")
    shutil.copytree(study.path, other.path)
    study.write_manifest(
        study.read_manifest() | {"left_out_baselines": {"ease": REASON, "bm25": "no item text has a word"}}
    )
    other.baseline("ease").path.mkdir(parents=True)
    other.baseline("ease").keep_ranks(USERS, first_for(0.2))
    table, _ = joint_leaderboard({folder: list(folder.trials()) for folder in (study, other)})
    rows = table.set_index("name")
    assert rows.loc["ease", "recall_at_1"] == pytest.approx(0.2)
    assert rows.loc["bm25", "status"] == "left out"
    assert table["name"].tolist().count("ease") == 1


def test_a_loss_ranks_the_other_way_round(study):
    manifest = study.read_manifest() | {"metric": "val_loss"}
    study.write_manifest(manifest)
    assert present(winner(study)).number == 0
    assert leaderboard(study)["name"][0] == "trial 0"


def test_a_trial_that_ended_with_the_search_was_interrupted(study):
    study.write_status(0, TrialStatus.CANCELLED)
    assert leaderboard(study)["status"][0] == "interrupted"
    assert ",trial,interrupted," in leaderboard(study).to_csv(index=False)


def test_a_trial_that_a_dead_search_has_left_running_was_interrupted(study):
    study.write_status(0, TrialStatus.RUNNING)
    assert leaderboard(study)["status"][0] == "interrupted"
    with study.locked():
        assert leaderboard(study)["status"][0] == "running"


@pytest.mark.parametrize("command", [compare.main, diagnose.main])
def test_a_search_that_was_killed_says_so_and_how_to_go_on(study, capsys, command):
    study.write_status(1, TrialStatus.RUNNING)
    study.write_status(2, TrialStatus.CANCELLED)
    keep_journal(study)  # in which both run
    assert command(["films", "--runs", str(study.path.parent)]) == 0
    expected = (
        f"The search was interrupted during trials 1, 2; to go on: python tune/run_search.py --resume {study.path}"
    )
    assert expected in capsys.readouterr().out
    with study.locked():
        command(["films", "--runs", str(study.path.parent)])
    assert "The search is still running: these are the figures so far." in capsys.readouterr().out
    study.write_ending("", complete=True)
    command(["films", "--runs", str(study.path.parent)])
    assert "The search" not in capsys.readouterr().out


def test_an_older_study_s_word_for_interrupted_is_known(study):
    assert TrialStatus("cancelled") is TrialStatus.CANCELLED
    with pytest.raises(ValueError, match="canceled"):
        TrialStatus("canceled")


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (200, "rank name status epoch Recall@1 NDCG@10 train loss val. loss seconds learning_rate model"),
        (120, "rank name status epoch Recall@1 NDCG@10 seconds learning_rate model"),
        (100, "rank name status Recall@1 NDCG@10 learning_rate model"),
        (80, "rank name status Recall@1 NDCG@10"),
        (60, "rank name Recall@1 NDCG@10"),
        (30, "name Recall@1 NDCG@10"),
    ],
)
def test_the_table_shows_the_columns_that_fit_and_names_the_others(study, width, expected):
    table = leaderboard(study)
    table.loc[1, "name"] = "zero-shot demo-small, [no prior]"
    out = io.StringIO()
    Console(width=width, file=out).print(pretty(table, ["learning_rate", "model"]))
    lines = out.getvalue().splitlines()
    assert " ".join(lines[0].split()) == expected
    assert max(len(line.rstrip()) for line in lines) <= width
    assert "…" not in out.getvalue()
    left_out = [name for name in ("train loss", "val. loss", "seconds", "status") if name not in expected]
    assert [name for name in left_out if name not in " ".join(lines)] == []
    assert ("zero-shot demo-small, [no prior]" in out.getvalue()) == (width > 30)


def test_of_many_trials_the_first_hundred_rows_are_printed_and_every_baseline(study):
    table = leaderboard(study)
    trial = table[table["kind"] == "trial"].iloc[:1]
    many = pd.concat([trial] * 120 + [table], ignore_index=True)
    out = io.StringIO()
    Console(width=200, file=out).print(pretty(many, ["learning_rate"]))
    lines = out.getvalue().splitlines()
    trials, others = (table["kind"] == "trial").sum(), (table["kind"] != "trial").sum()
    assert len(lines) == 1 + 100 + others + 1
    assert lines[-1].strip() == f"{20 + trials} more trials below; leaderboard.csv has every row"
    assert any("popularity" in line for line in lines)


def test_a_small_value_of_a_knob_is_no_zero_in_the_table(study):
    table = leaderboard(study)
    table["weight_decay"] = [2e-4, 0.0, 0.05, None, None]
    out = io.StringIO()
    Console(file=out, width=200).print(pretty(table, ["weight_decay"]))
    assert [line.split()[-1] for line in out.getvalue().splitlines()[1:4]] == ["2.0e-04", "0.0", "0.050"]


def test_the_verdict_says_it_in_one_sentence(study):
    assert verdict(study) == (
        "The best trial (number 0, epoch 2) ranks the true item first for 41% of users; "
        "the best baseline, popularity, 13%, chance 5%, best reachable 49%."
    )


def test_the_verdict_warns_where_there_are_too_few_lists(study):
    manifest = study.read_manifest()
    manifest["plan"]["validation_lists"] = 32
    study.write_manifest(manifest)
    assert "With 32 lists that is uncertain by ±17%" in verdict(study)


def test_the_command_prints_the_table_and_why_trials_failed(study, capsys):
    assert compare.main(["films", "--runs", str(study.path.parent)]) == 0
    out = capsys.readouterr().out
    assert "41% of users" in out
    assert "trial 2 failed: diverged in epoch 1" in out


def test_an_unknown_study_lists_those_that_exist(study, capsys):
    assert compare.main(["film", "--runs", str(study.path.parent)]) == 2
    assert "films" in capsys.readouterr().err


def test_two_studies_of_one_name_get_two_folders(tmp_path):
    assert [StudyFolder.create(tmp_path, "x").name for _ in range(3)] == ["x", "x-2", "x-3"]


def test_a_line_that_a_kill_cut_short_is_not_an_epoch(study):
    with (study.trial(1).path / "epochs.jsonl").open("a") as file:
        file.write('{"epoch": 2, "recall')
    assert [epoch["epoch"] for epoch in study.trial(1).read_reports()] == [1]


@pytest.fixture
def full_disk(tmp_path):
    """A real file system of 1 MB."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_is_one_clear_error_and_loses_nothing_written(full_disk: Path):
    folder = TrialFolder(full_disk)
    folder.append_report(figures(1, 0.3))
    with pytest.raises(EnvironmentFault, match="no space is left"):
        write_file(full_disk / "large.txt", "x" * 2_000_000)
    assert folder.read_reports()[0]["recall_at_1"] == 0.3
    assert sorted(path.name for path in full_disk.iterdir()) == ["epochs.jsonl"]


def test_the_errno_of_a_full_disk_has_its_sentence(tmp_path):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(EnvironmentFault, match="no space is left") as caught, writing(tmp_path / "adapter"):
        raise error
    assert caught.value.exit_code == 2


# What other programs learn of a search


@pytest.mark.parametrize(
    ("ending", "ours", "expected"),
    [
        ("", False, 0),
        (INTERRUPTED, False, 130),
        (f"{TOO_MANY_FAILURES}: 10 (max_failures)", False, 2),
        (f"{TOO_MANY_FAILURES}: 10 (max_failures)", True, 1),
        ("the time budget of 6h is used up", False, 0),
    ],
)
def test_exit_codes(study, ending, ours, expected):
    study.write_status(2, TrialStatus.FAILED, cause="diverged in epoch 1", ours=ours)
    assert exit_code(study, ending) == expected


def test_a_search_without_any_result_is_no_success(study):
    for number in (0, 1):
        study.trial(number).clear()
    assert exit_code(study, "") == 2


def test_a_webhook_is_told_the_verdict(study):
    told = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.handle_request).start()
        study.write_ending("", complete=True)
        tell_webhook(f"http://127.0.0.1:{server.server_port}/done", study)
    (content,) = told
    assert content == {
        "study": "films",
        "folder": str(study.path),
        "verdict": verdict(study),
        "reason": "",
        "complete": True,
    }


def test_a_webhook_that_is_down_is_worth_a_line(study, capsys):
    tell_webhook("http://127.0.0.1:9/hidden", study)
    err = capsys.readouterr().err
    assert "the webhook could not be told" in err
    assert "hidden" not in err


HALF = USERS[::2]


def report_on_half(study: StudyFolder, number: int, share: float, epoch: float = 0.5) -> None:
    """A report within the first epoch: the true item first for this share of every second user."""
    ranks = Ranks(np.where(np.arange(50) < round(50 * share), 0, 19), np.zeros(50, np.int64))
    report(study.trial(number), HALF, ranks, **figures(epoch, share), scored_share=0.5)


def test_a_trial_on_a_part_of_the_lists_is_shown_without_a_rank_and_does_not_win(study):
    study.start_trial(3, TrialConfig(model="demo-tiny", epochs=3))
    report_on_half(study, 3, 0.9)
    study.write_status(3, TrialStatus.PRUNED)
    best = winner(study)
    assert best is not None
    assert best.number == 0
    table = leaderboard(study).set_index("name")
    assert list(table.index) == ["trial 0", "chance", "popularity", "trial 1", "trial 3", "trial 2"]
    assert table["rank"].tolist()[:4] == [1, 2, 3, 4]
    assert table["rank"].isna().tolist()[4:] == [True, True]
    assert [table[name]["trial 3"] for name in ("ndcg_at_10", "scored_share", "epoch")] == [0.9, 0.5, 0.5]
    out = io.StringIO()
    Console(file=out, width=200).print(pretty(leaderboard(study), ["learning_rate"]))
    assert "trials without a rank are scored on 50% of the lists so far" in out.getvalue()


def test_the_verdict_on_a_part_of_the_lists_counts_those_that_were_scored(study):
    manifest = study.read_manifest()
    manifest["plan"]["validation_lists"] = 100
    study.write_manifest(manifest)
    for number, share in ((0, 0.4), (1, 0.9)):
        study.trial(number).clear()
        report_on_half(study, number, share, epoch=1 / 3)
    said = verdict(study)
    assert said.startswith("The best trial (number 1, epoch 0.333333) ranks the true item first for 90% of users; ")
    assert said.endswith("With 50 lists that is uncertain by ±8%: too few to tell close configurations apart.")


def test_before_any_report_on_all_lists_trials_and_baselines_are_compared_on_the_part(study):
    for number, share in ((0, 0.4), (1, 0.9)):
        study.trial(number).clear()
        report_on_half(study, number, share)
    study.baseline("popularity").keep_ranks(USERS, first_for(0.2))
    found = comparison.compare(study)
    assert found is not None
    assert (found.winner.number, found.users, found.configurations) == (1, 50, 2)
    assert found.against["popularity"].mean == pytest.approx(0.9 - 10 / 50)  # 20 of the first users, every second one
    assert found.against["popularity"].proven
    table = leaderboard(study).set_index("name")
    assert table.loc[["trial 1", "trial 0"], "rank"].tolist() == [1, 2]
