"""What every command does with bad arguments and with faults that nobody foresaw: one sentence, and an exit code."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reranker import rank, train
from reranker.command_line.entry_point import cause_of, last_net, working_on
from reranker.errors import EnvironmentFault, TrainingError
from reranker.metrics import chance
from reranker.storage.atomic_files import write_json, write_yaml
from results import compare, diagnose, report, seal
from results.study.study_folder import StudyFolder
from tests.stored import keep_journal
from tune import control, run_search, tracking
from tune.launching import arguments
from tune.searching import stop_pause_requests
from tune.study_file import loading
from tune.terminal.driver_log import DriverLog
from tune.terminal.printed_lines import goes_on

PROJECT = Path(__file__).resolve().parents[2]
MAINS = {
    "run_search": run_search.main,
    "control": control.main,
    "tracking": tracking.main,
    "compare": compare.main,
    "diagnose": diagnose.main,
    "report": report.main,
    "seal": seal.main,
    "train": train.main,
    "rank": rank.main,
}


def refused(capsys, main, *words: str) -> str:
    """What a command says of arguments that it does not take: one line, at once."""
    with pytest.raises(SystemExit) as end:
        main([*words])
    assert end.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err


FAULTS = {
    "an empty study to resume": (["--resume", ""], "--resume: must not be empty"),
    "no study to retry": (["--retry-failed"], "--retry-failed takes --resume"),
    "nothing to replicate": (["--top", "3"], "--top takes --replicate"),
    "a study file with resume": (["x.yaml", "--resume", "x"], "a study file is for a new study"),
    "a name with resume": (["--resume", "x", "--name", "y"], "--name is for a new study"),
    "a warm start with resume": (["--resume", "x", "--warm-start", "y"], "--warm-start is for a new study"),
    "another store with resume": (["--resume", "x", "--tracking-uri", "http://h"], "--tracking-uri is for a new study"),
    "GPUs of a Ray of our own": (["--wait-for-gpus", "2"], "takes --address"),
    "a port for another's cluster": (["--address", "auto", "--dashboard-port", "80"], "not with --address"),
    "a port for no dashboard": (["--no-dashboard", "--dashboard-port", "80"], "can't go together"),
    "a port too high": (["--dashboard-port", "99999"], "must be from 1 to 65535"),
    "a port of zero": (["--dashboard-port", "0"], "must be from 1 to 65535"),
    "trials below zero": (["--trials", "-1"], "whole number from 1"),
    "no trials": (["--trials", "0"], "whole number from 1"),
    "no concurrency": (["--concurrency", "0"], "whole number from 1"),
    "no workers": (["--workers", "0"], "whole number from 1"),
    "minutes below zero": (["--summary-minutes", "nan"], "above 0"),
    "a webhook without a scheme": (["--webhook", "hook.example/SECRET"], "must be an address with http"),
    "a webhook with a bad port": (["--webhook", "http://h:SECRET/x"], "must be an address with http"),
    "a shortened webhook": (["--webh", "https://hooks.slack.com/services/SECRET"], "unrecognized arguments"),
    "a shortened secret": (["--webhoo=https://h.example/?token=SECRET"], "unrecognized arguments"),
    "an unknown store": (["--tracking-uri", "htp://h:5000"], "must be a store of MLflow's"),
    "a store without a host": (["--tracking-uri", "http://"], "must be a store of MLflow's"),
    "runs nowhere": (["--runs", ""], "--runs: a path must not be empty"),
    "a NUL": (["--runs", "a\0b"], "NUL"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_arguments_that_would_be_ignored_or_fail_later_are_refused(case, capsys):
    words, expected = FAULTS[case]
    said = refused(capsys, run_search.main, *words)
    assert expected in said
    assert "SECRET" not in said


@pytest.mark.parametrize("name", MAINS)
def test_no_command_takes_a_shortened_option_or_a_nul(name, capsys):
    needed = {"control": ["x", "pause"], "rank": ["--adapter", "x"]}.get(name, ["x"] if name != "train" else [])
    assert "--ru" in refused(capsys, MAINS[name], *needed, "--ru=/x", *(["--hist", "a"] if name == "rank" else []))
    assert "NUL" in refused(capsys, MAINS[name], *needed, "a\0b")


@pytest.mark.parametrize("name", ["x" * 300, "nope", "x/y/z"])
def test_a_study_that_is_not_there_is_told_before_anything_else(name, tmp_path, capsys):
    assert run_search.main(["--warm-start", name, "--runs", str(tmp_path / "none")]) == 2
    assert run_search.main(["--resume", name, "--runs", str(tmp_path / "none")]) == 2
    assert compare.main([name, "other", "--runs", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert err.count("there is no study") == err.count("error: ") == 3
    assert out == ""
    assert list(tmp_path.iterdir()) == []


# Faults that nobody foresaw


def command(name: str, *words: str) -> list[str]:
    if name == "control":
        return [sys.executable, str(PROJECT / "tune" / "run_search.py"), "control", *words]
    if name == "run_search":
        return [sys.executable, str(PROJECT / "tune" / "run_search.py"), *words]
    module = {
        "tracking": "tune.tracking",
        "train": "reranker.train",
        "rank": "reranker.rank",
    }.get(name, f"results.{name}")
    return [sys.executable, "-m", module, *words]


def test_an_unforeseen_fault_is_a_sentence_with_its_trace_in_a_file(tmp_path, capsys):
    log = tmp_path / "driver.log"

    @last_net
    def main(argv: list[str] | None = None) -> int:
        working_on(log, "type this")
        try:
            (tmp_path / "none" / "x").read_text()
        except OSError as error:
            raise ValueError("x") from error
        return 0

    assert main([]) == 1
    _, err = capsys.readouterr()
    assert err.splitlines() == [
        f"error: {tmp_path / 'none' / 'x'}: No such file or directory",
        "to go on: type this",
        f"the whole trace: {log}",
    ]
    assert "Traceback" in log.read_text()
    assert main(["--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_where_there_is_no_study_a_new_file_has_the_trace(capsys):
    @last_net
    def main(argv: list[str] | None = None) -> int:
        raise KeyError("token=hidden")

    assert main([]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: an unexpected error, KeyError: 'token=***")
    log = Path(err.split("the whole trace: ")[1].strip())
    assert "Traceback" in log.read_text()
    assert "hidden" not in log.read_text()
    log.unlink()


def test_a_fault_of_the_user_needs_no_trace(capsys):
    @last_net
    def main(argv: list[str] | None = None) -> int:
        raise EnvironmentFault("there is none")

    assert main([]) == 2
    assert capsys.readouterr().err == "error: there is none\n"


def raised(error: BaseException, *, from_: BaseException) -> BaseException:
    error.__cause__ = from_
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (raised(RuntimeError("ten lines"), from_=EnvironmentFault("the cause")), ("the cause", 2)),
        (raised(RuntimeError("ten lines"), from_=TrainingError("the cause")), ("the cause", 1)),
        (raised(RuntimeError("a\nb"), from_=OSError(errno.ENOSPC, "x", "/y")), ("no space is left on the disk where /y is; what was written before is intact", 1)),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), ("no space is left on the disk; what was written before is intact", 1)),
        (raised(RuntimeError("x"), from_=MemoryError()), ("this machine has no memory left", 1)),
        (OSError(errno.ENOMEM, "x"), ("this machine has no memory left", 1)),
        (RuntimeError("first\nsecond"), ("an unexpected error, RuntimeError: first", 1)),
    ],
)  # fmt: skip
def test_the_cause_is_found_inside_what_is_wrapped_around_it(error, expected):
    assert cause_of(error) == expected


def test_an_error_that_is_its_own_cause_is_told():
    error = Exception("\nthe last lines of a log")
    assert cause_of(raised(error, from_=error)) == (
        "an unexpected error, Exception: the last lines of a log", 1,
    )  # fmt: skip


def test_what_was_being_handled_does_not_stand_for_what_was_raised_then():
    with pytest.raises(importlib.metadata.PackageNotFoundError) as raised:
        importlib.metadata.version("no-such-package")
    assert isinstance(raised.value.__context__, StopIteration)
    assert cause_of(raised.value)[0].startswith("the package no-such-package is missing")


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> StudyFolder:
    """The least that is a study: no trial, chance as its only reference."""
    folder = StudyFolder.create(tmp_path_factory.mktemp("runs"), "films")
    plan = {"metric": "ndcg_at_10", "trials": 3, "validation_lists": 2000, "candidates": 20}
    manifest = {
        "study_id": "abc", "name": "films", "metric": "ndcg_at_10", "knobs": ["learning_rate"], "plan": plan,
        "references": {"chance": chance(20)}, "best_reachable_recall_at_1": 0.49, "tracking_uri": "", "ceiling": None,
        "tags": {"data_fingerprint": "f00", "code_version": "0.1.0"},
    }  # fmt: skip
    folder.write_manifest(manifest)
    space = "{learning_rate: {log_uniform: [1.0e-3, 1.0e-2]}}"
    write_yaml(folder.study_file, f"study: {{name: films}}\ndata: {{source: demo}}\nspace: {space}\n")
    return keep_journal(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compare", "diagnose", "report", "tracking", "train", "run_search"])
def test_an_output_that_takes_nothing_is_a_sentence_in_every_command(name, films):
    words = {
        "train": ["--source", "demo", "--epochs", "1", "--data-users", "40"],
        "run_search": ["--check"],
    }.get(name, ["films", "--runs", str(films.path.parent)])
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(name, *words), stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=films.path.parent,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: no space is left")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# Requests to a running search


@pytest.mark.parametrize(
    "content",
    [
        {"id": "1", "act": "pause", "unknown": 1}, {"id": "1", "act": "explode"}, {"id": "1"}, {"id": 1, "act": "pause"},
        {"id": "1", "act": "add", "values": [1]}, {"id": "1", "act": "stop", "trial": "2"}, {"id": "1", "act": "stop"},
        {"id": "../../x", "act": "pause"}, {},
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_answered_and_set_aside(content, tmp_path):
    folder = StudyFolder.create(tmp_path, "x")
    write_json(folder.control / "1.request", content)
    write_json(folder.control / "2.request", {"id": "2", "act": "pause", "trial": None, "values": {}})
    assert [request.id for request in stop_pause_requests.take_up(folder)] == ["2"]
    answer = json.loads((folder.control / "1.answer").read_text())
    assert not answer["accepted"]
    assert answer["text"].startswith("not a request: ")
    assert sorted(path.name for path in folder.control.iterdir()) == ["1.answer", "1.refused", "2.request"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b"[1]"])
def test_a_request_that_is_garbage_is_set_aside(content, tmp_path):
    folder = StudyFolder.create(tmp_path, "x")
    folder.control.mkdir()
    (folder.control / "1.request").write_bytes(content)
    assert list(stop_pause_requests.take_up(folder)) == []
    assert (folder.control / "1.refused").exists()


def test_ctrl_c_says_how_to_go_on(tmp_path, capsys):
    @last_net
    def main(argv: list[str] | None = None) -> int:
        working_on(tmp_path / "driver.log", "type this")
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    assert main([]) == 130
    assert capsys.readouterr().err == "stopped; to go on: type this\n"


def test_the_command_that_is_stored_asks_the_same_and_has_no_secret():
    words = ["s.yaml", "--webhook=https://h.example/SECRET", "--set", "epochs=2", "--set", "x=a b", "--trials", "3"]
    args = arguments.parsed([*words, "--quiet", "--tracking-uri", "postgresql://me:SECRET@db/x"], "")
    assert args.command == [
        "tune/run_search.py", "s.yaml", "--set", "epochs=2", "--set", "x=a b", "--trials", "3",
        "--tracking-uri", "postgresql://***@db/x", "--quiet", "--webhook", "***",
    ]  # fmt: skip
    assert args.webhook == "https://h.example/SECRET"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "s.yaml --name x --trials 3 --set epochs=2 --tracking-uri http://h --max-restarts 3 --quiet --dashboard-port 9000",
            "--resume /r/x --max-restarts 2 --runs RUNS --dashboard-port 9000 --quiet",
        ),
        (
            "s.yaml --replicate 2 --refit --webhook https://h.example/SECRET --max-restarts 3",
            "--resume /r/x --max-restarts 2 --replicate 2 --top 5 --refit --runs RUNS --webhook https://h.example/SECRET",
        ),
        (
            "--resume s3://b/f/n --retry-failed --address auto --wait-for-gpus 2 --max-restarts 3",
            "--resume /r/x --max-restarts 2 --runs RUNS --copy-to s3://b/f --address auto --wait-for-gpus 2",
        ),
    ],
)
def test_a_search_that_goes_on_by_itself_is_asked_what_its_study_does_not_know(words, expected, tmp_path):
    args = arguments.parsed([*words.split(), "--runs", str(tmp_path)], "")
    again = arguments.going_on(args, Path("/r/x"), 2)
    assert again == expected.replace("RUNS", str(tmp_path)).split()
    assert arguments.going_on(arguments.parsed(again, ""), Path("/r/x"), 2) == again
    assert "--max-restarts" not in arguments.going_on(args, Path("/r/x"), 0)


def test_what_goes_on_is_not_told_as_a_whole_plan_again(films):
    study = loading.load(PROJECT / "search_spaces" / "quick.yaml")
    assert goes_on(study, films, 3, 5) == (
        f"study films goes on: 0 of {study.settings.trials} trials have ended; then the best 5 again with 3 other seeds"
    )
    assert goes_on(study, films, 1, 1).endswith("; then the best again with 1 other seed")


def test_a_start_that_no_cluster_answers_is_one_sentence_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quick = str(PROJECT / "search_spaces" / "quick.yaml")
    assert run_search.main([quick, "--quiet", "--runs", str(tmp_path / "runs"), "--address", "127.0.0.1:1"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: no Ray cluster answers at 127.0.0.1:1: connection refused; ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_libraries_write_is_kept_in_the_study_and_not_shown(tmp_path, capfd):
    study = StudyFolder.create(tmp_path, "x")
    with DriverLog() as log:
        os.write(2, b"from C, before there is a study\n")
        log.keep_in(study.path)
        os.write(1, b"from C\n")
        print("from Python")
    print("ours")
    assert capfd.readouterr() == ("ours\n", "")
    assert (study.path / "driver.log").read_text().splitlines() == [
        "from C, before there is a study",
        "from C",
        "from Python",
    ]


AS_A_PROCESS = """
import atexit, sys
from reranker.command_line.entry_point import run

class Slow:
    def __del__(self):
        print("freed")

slow = Slow()

def main():
    atexit.register(print, "closed")
    print("done", end=" ")
    return 7

run(main)
"""


def test_a_command_s_process_ends_when_all_is_closed_and_frees_nothing():
    done = subprocess.run([sys.executable, "-c", AS_A_PROCESS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "done closed\n", "")
