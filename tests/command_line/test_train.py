"""One training from the command line: which configuration and data it takes, and what it refuses before it reads any."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from reranker import train
from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData, MovieLensData, TablesData
from reranker.storage.atomic_files import write_yaml
from results.reporting.write_report import write_best_config
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tune.study_file import loading

ROWS = [(u, i, t) for u in range(12) for t, i in enumerate((u + k * k) % 9 for k in range(8))]


@pytest.fixture
def study(tmp_path) -> StudyFolder:
    """Of a user's tables, named relative to the study file, with one finished trial."""
    (tmp_path / "mine").mkdir()
    rows = "".join(f"u{u},i{i},{t}\n" for u, i, t in dict.fromkeys(ROWS))
    (tmp_path / "mine" / "clicks.csv").write_text("user_id,item_id,timestamp\n" + rows)
    titles = ["Dusty Saddle", "Lunar Comet", "Silly Clown", "Tender Kiss", "Secret Bride", "Wild Reef", "Lunar Probe"]
    items = "".join(f"i{i},{title}\n" for i, title in enumerate([*titles, "Wild Glacier", "Frozen Reef"]))
    (tmp_path / "mine" / "items.csv").write_text("item_id,text\n" + items)
    (tmp_path / "mine" / "study.yaml").write_text(
        "study: {name: mine, trials: 1}\n"
        "data: {source: tables, interactions: clicks.csv, items: items.csv, min_user: 3, min_item: 1}\n"
        "space: {epochs: {int: [1, 2]}}\n"
    )
    folder = StudyFolder.create(tmp_path / "runs", "mine")
    write_yaml(folder.study_file, loading.load(tmp_path / "mine" / "study.yaml").dump())
    folder.write_manifest({})
    config = TrialConfig(
        model="demo-tiny",
        epochs=1,
        examples_per_user=1,
        lora_rank=2,
        candidates=3,
        learning_rate=1e-2,
        history_length=5,
    )
    folder.start_trial(0, config)
    folder.trial(0).append_report({"epoch": 1, "ndcg_at_10": 0.5})
    folder.write_status(0, TrialStatus.COMPLETED)
    write_best_config(folder, next(folder.trials()))
    return folder


@pytest.fixture
def asked(monkeypatch):
    """What would be trained on what, without training."""
    seen = []
    monkeypatch.setattr(train, "_run", lambda *what: seen.append(what))

    def ask(*argv: str):
        seen.clear()
        assert train.main(list(argv)) == 0
        return seen[0]

    return ask


def refused(capsys, *argv: str) -> str:
    assert train.main(list(argv)) == 2
    return capsys.readouterr().err.removeprefix("error: ").strip()


@pytest.mark.slow
def test_a_study_s_best_configuration_trains_on_the_study_s_own_tables(study, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = RerankingData.prepare(study.read_data_config()).interactions.fingerprint
    assert train.main(["--config", str(study.best_config), "--output", "my-reranker"]) == 0
    out = capsys.readouterr().out
    assert "data: tables, 12 users, 9 items" in out
    assert f"fingerprint {own[:12]}" in out
    trained = TrialFolder(tmp_path / "my-reranker")
    assert trained.read_config().model_dump() == next(study.trials()).values
    assert (trained.adapter / "adapter_model.safetensors").exists()


def test_the_best_configuration_holds_every_knob_and_the_data_as_they_were_resolved(study, asked):
    config, data, metric, output = asked("--config", str(study.best_config))
    assert config.model_dump() == next(study.trials()).values
    assert data == study.read_data_config()
    assert data.interactions.is_absolute()
    assert (metric, output) == ("ndcg_at_10", Path("trained"))


def test_the_command_line_overrides_knobs_and_data_of_the_file(study, asked):
    given = ["--epochs", "4", "--learning-rate", "1e-3", "--data-min-user", "4", "--data-seed", "7"]
    config, data, *_ = asked("--config", str(study.best_config), *given)
    assert (config.epochs, config.learning_rate, config.lora_rank) == (4, 1e-3, 2)
    assert data == study.read_data_config().model_copy(update={"min_user": 4, "seed": 7})


def test_another_source_starts_from_its_defaults_and_the_same_one_keeps_the_file_s(study, asked):
    assert asked("--config", str(study.best_config), "--source", "demo", "--data-users", "64")[1] == DemoData(users=64)
    assert asked("--config", str(study.best_config), "--source", "tables")[1] == study.read_data_config()


def test_relative_paths_in_the_file_stand_beside_it_and_those_of_the_command_line_here(tmp_path, asked, monkeypatch):
    (tmp_path / "there").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "there" / name).touch()
    (tmp_path / "there" / "c.yaml").write_text("data: {source: tables, interactions: a.csv, items: b.csv}\n")
    monkeypatch.chdir(tmp_path)
    data = asked("--config", "there/c.yaml", "--data-items", "b.csv")[1]
    assert data == TablesData(interactions=tmp_path / "there" / "a.csv", items=Path("b.csv"))


def test_paths_and_models_of_the_command_line_are_text_whatever_yaml_would_make_of_them(asked):
    config, data, *_ = asked("--source", "movielens", "--data-path", "007", "--model", "demo-tiny")
    assert data == MovieLensData(path=Path("007"))
    assert config.model == "demo-tiny"


def test_several_folders_of_mind_are_given_as_a_list(asked):
    _, data, *_ = asked("--source", "mind", "--data-path", "[train, dev]")
    assert data.folders == (Path("train"), Path("dev"))


def test_every_source_can_be_named_with_its_paths_and_templates_as_they_are(asked):
    options = ["--data-reviews", "null", "--data-metadata", "[m].gz", "--data-item-text", "{title} | {brand:2}"]
    data = asked("--source", "amazon", "--data-year", "2023", *options)[1]
    assert (data.year, data.reviews, data.metadata) == (2023, Path("null"), Path("[m].gz"))
    assert data.item_text == "{title} | {brand:2}"


@pytest.mark.parametrize(
    ("argv", "message"),
    {
        "no source": (
            ["--model", "demo-tiny"],
            "say what to train on: --source demo, movielens, tables, ",
        ),
        "data without a source": (["--data-users", "64"], "say what to train on"),
        "an older file": (
            ["--config", "old.yaml"],
            "old.yaml: say what to train on: --source demo, movielens, tables, ",
        ),
        "metric": (
            ["--source", "demo", "--metric", "foo"],
            "--metric: there is no such metric (got 'foo'); valid: mrr",
        ),
        "near metric": (["--source", "demo", "--metric", "ndcg@10"], "did you mean 'ndcg_at_10'?"),
        "no value": (["--source", "demo", "--epochs", "[1"], "--epochs: not a value (got '[1')"),
        "a list": (["--source", "demo", "--epochs", "[1]"], "--epochs: epochs: must be a whole number"),
        "nothing": (["--source", "demo", "--epochs", ""], "--epochs: epochs: must be a whole number"),
        "no number": (
            ["--source", "demo", "--learning-rate", "nan"],
            "--learning-rate: learning_rate: must be",
        ),
        "infinite": (
            ["--source", "demo", "--warmup-epochs", "1e999"],
            "--warmup-epochs: warmup_epochs: must be",
        ),
        "negative": (["--source", "demo", "--lora-rank=-1"], "--lora-rank: lora_rank: must be at least"),
        "too many": (
            ["--source", "demo", "--data-users", "1000000000"],
            "--data-users: data.users: must be at most",
        ),
        "no path": (
            ["--source", "movielens", "--data-path", "a\nb"],
            "--data-path: data.path: a path must not hold NUL",
        ),
        "no tables": (["--source", "tables", "--data-items", "x"], "--source: data.interactions: this must be given"),
        "of another source": (
            ["--source", "demo", "--data-path", "x"],
            "--data-path: data.path: there is no such knob",
        ),
        "no file": (["--config", "absent.yaml"], "absent.yaml: there is no such configuration; "),
        "unknown knob": (
            ["--config", "typo.yaml"],
            "typo.yaml:2: epoch: there is no such knob; did you mean 'epochs'?",
        ),
        "bomb": (["--config", "bomb.yaml"], "a file must have at most 100,000 values, its aliases written out"),
    }.values(),
)
def test_what_cannot_be_trained_is_refused_with_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "_run", lambda *_: pytest.fail("was trained"))
    (tmp_path / "old.yaml").write_text("model: demo-tiny\n")
    (tmp_path / "typo.yaml").write_text("model: demo-tiny\nepoch: 3\ndata: {source: demo}\n")
    layers = (f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]\n" for i in range(1, 12))
    (tmp_path / "bomb.yaml").write_text(f"b0: &b0 [1]\n{''.join(layers)}")
    said = refused(capsys, *argv)
    assert message in said
    assert "\n" not in said


@pytest.mark.parametrize("path", ["a\nb", "x" * 300, "y/" * 3000, ""])
def test_an_output_that_no_file_system_has_is_refused(path, capsys):
    with pytest.raises(SystemExit):
        train.main(["--source", "demo", "--output", path])
    assert "argument --output: a path" in capsys.readouterr().err


def test_every_option_says_what_it_is(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    options = [line for line in capsys.readouterr().out.split("\n  --") if "VALUE" in line]
    assert len(options) > 30
    assert [option for option in options if len(option.split("VALUE", 1)[1].split()) < 2 or "None (" in option] == []


def test_the_documentation_s_commands_say_what_to_train_on(asked, study):
    readme = (Path(__file__).parents[2] / "README.md").read_text() + (train.__doc__ or "")
    commands = [line.split("reranker.train", 1)[1] for line in readme.splitlines() if "-m reranker.train --" in line]
    for command in [c for c in commands if "--help" not in c]:
        asked(
            *shlex.split(command.replace("results/runs/demo/best_config.yaml", str(study.best_config)), comments=True)
        )
    assert len(commands) >= 4
