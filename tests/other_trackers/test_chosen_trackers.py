"""Which trackers a study names: what they need is told before anything starts, and where to look."""

from __future__ import annotations

import importlib.util

import pytest

from reranker.errors import EnvironmentFault, InputError
from reranker.storage.atomic_files import write_yaml
from results.study.study_folder import StudyFolder
from tests.searched import STUDY
from tune import run_search, tracking
from tune.mirroring.mirror_thread import Trackers
from tune.other_trackers.chosen_trackers import check_trackers, threads_of, where_to_look
from tune.other_trackers.tracker_files import events_file, tensorboard_folder, wandb_parent
from tune.other_trackers.wandb_account import wandb_mode
from tune.study_file.study import Study
from tune.terminal.printed_lines import where_it_is

FILE = STUDY.format(name="small", trials=1)
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(FILE)
    return path


def test_mlflow_is_there_alone_unless_more_are_named(file):
    assert Study.load(file).trackers == ("mlflow",)
    assert Study.load(file, ["study.trackers=[jsonl, tensorboard]"]).trackers == ("mlflow", "jsonl", "tensorboard")
    assert Study.load(file, ["study.trackers=wandb"]).trackers == ("mlflow", "wandb")
    assert Study.load(file, ["study.trackers=[jsonl, mlflow, jsonl]"]).trackers == ("mlflow", "jsonl")


@pytest.mark.parametrize(
    ("named", "hint"),
    [("[tensorbord]", "did you mean 'tensorboard'?"), ("[comet]", "")],
)
def test_an_unknown_name_is_told_with_the_list(file, named, hint):
    with pytest.raises(InputError) as caught:
        Study.load(file, [f"study.trackers={named}"])
    (fault,) = caught.value.faults
    assert (fault.rule, fault.hint) == ("must be mlflow, jsonl, tensorboard or wandb", hint)


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
@pytest.mark.parametrize("options", [[], ["--check"]])
def test_a_missing_package_is_told_with_pip_s_command_before_ray_starts(file, package, options, monkeypatch, capsys):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert run_search.main([str(file), *options, "--runs", str(file.parent), "--set", f"study.trackers={package}"]) == 2
    said = capsys.readouterr()
    assert f"{package} needs the package {package}: pip install 'reranker-tuner[{package}]'" in said.err
    assert "starting Ray" not in said.out + said.err
    assert list(file.parent.glob("*/manifest.json")) == []


@pytest.mark.parametrize("options", [[], ["--check"]])
def test_w_and_b_without_a_key_is_told_before_ray_starts(file, options, capsys):
    assert run_search.main([str(file), *options, "--runs", str(file.parent), "--set", "study.trackers=wandb"]) == 2
    said = capsys.readouterr()
    assert "there is none: run `wandb login`, or set WANDB_API_KEY; with WANDB_MODE=offline" in said.err
    assert "starting Ray" not in said.out + said.err


def test_the_mode_and_the_key_are_found_where_w_and_b_finds_them(tmp_path, monkeypatch):
    with pytest.raises(EnvironmentFault):
        wandb_mode()
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        assert wandb_mode() == "online"
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        assert wandb_mode() == "offline"
        patch.setenv("WANDB_MODE", "disabled")
        assert wandb_mode() == "disabled"
    (tmp_path / "home" / "wandb").mkdir(parents=True)
    (tmp_path / "home" / ".netrc").write_text(f"machine wandb.example login user password {KEY}\n")
    with pytest.raises(EnvironmentFault) as caught:
        wandb_mode()  # a key of another server
    assert KEY not in str(caught.value)
    (tmp_path / "home" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.example\n")
    assert wandb_mode() == "online"
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert wandb_mode() == "offline"
    (tmp_path / "wandb" / "settings").write_text("no settings\n")
    with pytest.raises(EnvironmentFault):
        wandb_mode()


def test_each_tracker_besides_mlflow_has_a_thread_and_a_line(study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    names = ["mlflow", "jsonl", "tensorboard", "wandb"]
    check_trackers(names)
    assert [thread.name for thread in threads_of(study, names)] == [
        "The file of events", "TensorBoard", "Weights & Biases",
    ]  # fmt: skip
    events, board, wandb = where_to_look(study, names)
    assert events == f"events:        {study.path}/trackers/events.jsonl"
    assert board.endswith(f"tensorboard --logdir '{study.path}/trackers/tensorboard'")
    assert wandb.endswith(f"sync '{study.path}/trackers/wandb'/offline-run-*")


def test_w_and_b_that_is_switched_off_has_no_thread(study: StudyFolder, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    check_trackers(["wandb"])
    assert threads_of(study, ["wandb"]) == []


def test_the_command_brings_the_study_s_other_trackers_up_unless_its_search_does(study, capsys):
    write_yaml(study.study_file, "study: {trackers: [jsonl, tensorboard]}\n")
    with study.locked():
        tracking._deliver_to_others(study)
    assert not events_file(study).exists()
    tracking._deliver_to_others(study)
    assert '"event": "study_end"' in events_file(study).read_text()
    assert (tensorboard_folder(study) / "trial-000").is_dir()
    assert capsys.readouterr().out.count("trackers/") == 2


def test_the_command_says_what_a_tracker_does_not_take(study):
    write_yaml(study.study_file, "study: {trackers: jsonl}\n")
    events_file(study).parent.write_text("a file where a folder belongs")
    with pytest.raises(EnvironmentFault, match="The file of events does not take it: cannot write"):
        tracking._deliver_to_others(study)


def test_the_search_s_last_lines_lead_to_its_trackers_and_say_what_they_lack(study):
    lines = where_it_is(study, "sqlite:///x.db", None, {"TensorBoard": "no space"}, trackers=["mlflow", "jsonl"])
    assert "TensorBoard does not have everything (no space); nothing is lost. To deliver it:" in lines
    assert f"-m tune.tracking '{study.path}'" in lines
    assert lines.endswith(f"events:        {events_file(study)}")


@pytest.mark.slow
def test_a_tracker_that_fails_is_told_once_and_costs_the_others_nothing(study, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tensorboard_folder(study).parent.mkdir()
    tensorboard_folder(study).write_text("a file where a folder belongs")
    said: list[str] = []
    trackers = Trackers(threads_of(study, ["jsonl", "tensorboard", "wandb"]))
    trackers.tell(said.append)
    trackers.start()
    trackers.nudge()
    (name,) = troubles = trackers.finish(120)
    assert (name, troubles[name].startswith("cannot write")) == ("TensorBoard", True)
    assert len(said) == 1
    assert said[0].startswith("TensorBoard does not have everything (cannot write")
    assert '"event": "study_end"' in events_file(study).read_text()
    assert len(list((wandb_parent(study) / "wandb").glob("offline-run-*"))) == 6
