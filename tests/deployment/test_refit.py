"""The winner is trained once more on all but the test items, registered, and answers over HTTP what the library answers."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import grimp
import pytest
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from tune.execution.ray_cluster import cluster  # isort: skip  (first: sets what Ray reads on import)

from reranker.artifacts.adapter_files import read_adjustment
from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import Adjustment
from reranker.config import NegativesMix, TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.candidates.leak_guard import check_no_leak
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError
from reranker.metrics import chance
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.ranking.ranker import Reranker
from reranker.storage.atomic_files import write_yaml
from reranker.training.sft import fine_tune
from reranker.training.trainer import TrainingReport
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from results.study.tracking_address import local_store, tracking_uri_of
from tests.ended import PATIENCE_S
from tune.deployment.deploy import example_of, refit_and_register
from tune.deployment.model_registry import REQUIRED, register
from tune.deployment.refit import Recipe, refit
from tune.execution.worker_group import TrialResources
from tune.mlflow_tracking.trials_to_runs import StudyMirror

pytestmark = pytest.mark.slow

CONFIG = TrialConfig(
    model="demo-tiny", epochs=3, examples_per_user=2, learning_rate=1e-2, schedule="linear", lora_rank=4
)
ONE_WORKER = TrialResources(workers=1, cpus_per_worker=1, gpus_per_worker=0)
EPOCHS = 2  # the winner's best of three


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=100))


def test_a_refit_trains_on_the_validation_items_and_never_on_the_test_items(data):
    more, config = data.refit(), CONFIG.model_copy(update={"examples_per_user": None})
    assert more.validation(config) == []
    examples = more.training_examples(config, 0)
    targets = {(example.user, example.candidates[example.target]) for example in examples}
    assert set(enumerate(data.split.validation.items)) <= targets
    assert len(examples) == len(data.training_examples(config, 0)) + len(data.split.validation.items)
    assert not targets & set(enumerate(data.split.test.items))
    assert not any(data.split.test.items[example.user] in example.history for example in examples)
    leaking = dataclasses.replace(examples[0], history=(int(data.split.test.items[examples[0].user]),))
    with pytest.raises(InputError, match="only what the user touched in the training part"):
        check_no_leak([leaking], more.interactions, more.split, "train")


@pytest.mark.parametrize("negatives", [NegativesMix(), NegativesMix(uniform=0.5, retriever=0.5)])
def test_a_refit_of_sealed_data_is_the_same(data, negatives):
    config = CONFIG.model_copy(update={"negatives": negatives})
    sealed = data.sealed().refit()
    assert sealed.split.is_sealed
    assert sealed.training_examples(config, 1) == data.refit().training_examples(config, 1)


def test_a_refit_validates_on_nothing_where_lists_are_retrieved():
    retrieved = RerankingData.prepare(DemoData(users=100, candidate_mode="retrieval"))
    assert retrieved.validation(CONFIG)
    assert retrieved.refit().validation(CONFIG) == []
    assert len(retrieved.refit().training_examples(CONFIG, 0)) == 200


def test_a_refit_is_tested_on_the_same_lists(data):
    assert data.refit().test(CONFIG) == data.test(CONFIG)


@pytest.fixture(scope="module")
def study(data, tmp_path_factory) -> StudyFolder:
    """A finished search of two trials, of which the second wins with its second epoch of three."""
    folder = StudyFolder.create(tmp_path_factory.mktemp("runs"), "small")
    manifest = {
        "study_id": "0" * 32,
        "metric": "ndcg_at_10",
        "knobs": ["learning_rate"],
        "references": {"chance": chance(20)},
        "lists": "0" * 64,
        "ceiling": None,
        "best_reachable_recall_at_1": None,
        "tags": {"data_fingerprint": data.interactions.fingerprint, "code_version": "0.1.0"},
        "plan": {"metric": "ndcg_at_10", "trials": 2, "candidates": 20, "validation_lists": 100, "source": "demo"},
        "versions": {},
        "tracking_uri": "",
    }
    folder.write_manifest(manifest)
    space = "{learning_rate: {log_uniform: [1.0e-5, 1.0e-1]}}"
    write_yaml(folder.study_file, f"study: {{name: small}}\ndata: {{source: demo}}\nspace: {space}\n")
    for number, config in enumerate((CONFIG.model_copy(update={"learning_rate": 1e-4}), CONFIG)):
        folder.start_trial(number, config)
        fine_tune(config, data, folder=folder.trial(number))
        folder.write_status(number, TrialStatus.COMPLETED)
    epochs = folder.trial(1).read_reports()
    epochs[EPOCHS - 1]["ndcg_at_10"] = 0.9
    (folder.trial(1).path / "epochs.jsonl").unlink()
    for figures in epochs:
        folder.trial(1).append_report(figures)
    folder.write_ending("", complete=True)
    StudyMirror(folder, local_store(folder)).bring_up(ended=True)
    return folder


@pytest.fixture(scope="module")
def handed_over(data, study, tmp_path_factory) -> dict[str, list[str]]:
    """A refit that Ctrl-C ends after its first epoch, then the whole of it in another Ray run: what was told of both."""

    def interrupt(figures):
        raise KeyboardInterrupt

    said: dict[str, list[str]] = {"before": [], "during": [], "after": [], "mended": []}
    with cluster(None, None, dashboard=False):
        with pytest.raises(KeyboardInterrupt):
            refit(data, study, ONE_WORKER, interrupt)
        said["before"] = sorted(path.name for path in study.path.glob("refit*"))
        uri = tracking_uri_of(study)
        told = refit_and_register(
            data, study, ONE_WORKER, name="small", tracking_uri=uri, say=lambda line: said["during"].append(line)
        )
        damaged = copy_of(study, tmp_path_factory.mktemp("damaged") / "small")
        weights = damaged.refit.adapter / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
        shutil.copytree(damaged.refit.path, damaged.path / "refit.tmp")
        (damaged.path / "refit.tmp" / "recipe.json").write_text("{")
        refit(data, damaged, ONE_WORKER, lambda figures: said["mended"].append(f"epoch {figures['epoch']}"))
        said["mended"].append(str(damaged.path))
    said["after"] = told.splitlines()
    return said


def copy_of(study: StudyFolder, place: Path) -> StudyFolder:
    shutil.copytree(study.path, place, ignore=shutil.ignore_patterns("mlartifacts", "ray"))
    return StudyFolder(place)


def test_a_refit_that_is_damaged_is_trained_anew(study, handed_over):
    *epochs, place = handed_over["mended"]
    assert epochs == ["epoch 1", "epoch 2"]
    mended = StudyFolder(Path(place))
    whole, again = (load_file(s.refit.adapter / "adapter_model.safetensors") for s in (study, mended))
    assert all((whole[name] - again[name]).abs().max() < 1e-6 for name in whole)
    assert not (mended.path / "refit.tmp").exists()
    assert Recipe.read(mended.refit).adapter.keys() == Recipe.read(study.refit).adapter.keys() != set()


def test_a_refit_that_was_interrupted_leaves_no_half_adapter_and_goes_on(study, handed_over):
    assert handed_over["before"] == ["refit.tmp"]
    on_the_way = [line.split(":")[0] for line in handed_over["during"]]
    assert [
        line for line in on_the_way if "loading" not in line and "step" not in line
    ] == [  # said where it takes long
        "refit of trial 1 on training and validation items, 2 epochs",
        "refit epoch 2/2",  # the first was there already
    ]
    assert not (study.path / "refit.tmp").exists()
    kept = sorted(path.name for path in study.refit.path.iterdir())
    assert kept == [
        "adapter",
        "config.json",
        "epochs.jsonl",
        "notes.jsonl",
        "recipe.json",
        "registered.json",
        "train.log",
    ]


def test_a_refit_is_the_winner_s_recipe_up_to_its_best_epoch(data, study, handed_over, tmp_path):
    assert Recipe.read(study.refit) == Recipe(trial=1, epochs=EPOCHS, metric="ndcg_at_10", value=0.9)
    assert study.refit.read_config() == CONFIG
    assert "trial 1's configuration, trained for 2 of 3 epochs" in study.refit.read_notes()[0]
    assert read_adjustment(study.refit.adapter) == read_adjustment(study.trial(1).adapter) != Adjustment()
    last = study.refit.read_reports()[-1]
    assert (last["epoch"], last["applied/examples"]) == (EPOCHS, EPOCHS * 2 * 100)
    assert "ndcg_at_10" not in last
    steps: list[TrainingReport] = []
    alone = TrialFolder(tmp_path)
    fine_tune(CONFIG, data.refit(), folder=alone, on_report=lambda report: steps.append(report) or len(steps) < EPOCHS)
    expected, found = (load_file(folder.adapter / "adapter_model.safetensors") for folder in (alone, study.refit))
    assert expected.keys() == found.keys()
    assert all((expected[name] - found[name]).abs().max() < 1e-6 for name in expected)
    assert last["applied/optimizer_steps"] == EPOCHS * math.ceil(200 / CONFIG.effective_batch)


def test_the_report_and_mlflow_lead_to_the_refit(study, handed_over):
    ranked = f"python -m reranker.rank --adapter {study.refit.path} --history TITLE"
    client = MlflowClient(tracking_uri_of(study))
    experiment = client.get_experiment_by_name("small").experiment_id
    (parent,) = client.search_runs([experiment], "tags.kind = 'study'")
    for text in (study.report.read_text(), parent.data.tags["mlflow.note.content"]):
        assert ranked in text
        assert "mlflow models serve --model-uri models:/small/1 " in text
    assert "MLflow lacks" not in " ".join(handed_over["after"])


def test_a_refit_that_is_there_is_taken_as_it_is(data, study, handed_over):
    before = (study.refit.adapter / "adapter_model.safetensors").stat().st_mtime_ns
    assert refit(data, study, ONE_WORKER) == study.refit  # there is no Ray any more
    assert (study.refit.adapter / "adapter_model.safetensors").stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def server(study, handed_over, tmp_path_factory):
    """The command that the hand-over prints, on a free port, where nothing of ours is installed; its address."""
    bare = tmp_path_factory.mktemp("bare")
    hide = (
        "import os, sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in getattr(f, '__module__', '')]\n"
        "sys.path[:] = [p for p in sys.path if not os.path.exists(os.path.join(p, 'reranker', 'rank.py'))]\n"
    )
    (bare / "sitecustomize.py").write_text(hide, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(bare), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    ours = [sys.executable, "-c", "import reranker"]
    assert subprocess.run(ours, cwd=bare, env=environment, capture_output=True, check=False).returncode == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (command,) = [line.removeprefix("serve it:").strip() for line in handed_over["after"] if "serve it:" in line]
    with (bare / "log").open("w") as log:
        process = subprocess.Popen(
            ["bash", "-c", "exec env " + command.replace("5001", str(port))],
            cwd=bare, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, (bare / "log").read_text()
            assert time.monotonic() < deadline, (bare / "log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        process.terminate()
        process.wait(timeout=30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def post(url: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("params", [{}, {"permutations": 3}])
def test_the_served_model_answers_what_the_library_answers_for_100_lists(data, study, server, params):
    texts = data.interactions.item_texts
    lists = [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in data.validation(CONFIG)]
    expected = Reranker.load(study.refit.path).rank_many(lists, **params)
    records = [{"history": history, "candidates": candidates} for history, candidates in lists]
    status, answer = post(server, {"dataframe_records": records, "params": params})
    assert (status, len(answer["predictions"])) == (200, 100)
    for found, ranking in zip(answer["predictions"], expected, strict=True):
        assert found["order"] == ranking.order
        assert found["probabilities"] == pytest.approx(ranking.probabilities, abs=1e-6)


def test_the_printed_question_is_one_that_the_server_answers(server, handed_over):
    (line,) = [line for line in handed_over["after"] if line.startswith("ask it:")]
    words = shlex.split(line)
    status, answer = post(server, json.loads(words[words.index("-d") + 1]))
    assert status == 200
    assert sorted(answer["predictions"][0]["order"]) == [0, 1, 2]


def test_a_question_that_breaks_a_rule_is_refused_with_the_rule(server):
    record = {"history": ["Dusty Saddle"], "candidates": ["Wild Reef", "Wild Reef"]}
    status, answer = post(server, {"dataframe_records": [record]})
    assert status == 400
    assert "a candidate must stand once in a list (got 'Wild Reef')" in answer["message"]


def test_ids_tell_apart_items_of_one_title(server):
    record = {"history": ["Dusty Saddle"], "candidates": ["Wild Reef", "Wild Reef"], "candidate_ids": ["a", "b"]}
    status, answer = post(server, {"dataframe_records": [record]})
    assert (status, sorted(answer["predictions"][0]["order"])) == (200, [0, 1]), answer


def folder_of(client: MlflowClient, version) -> Path:
    """Where the store keeps a version's files."""
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    return Path(model.artifact_location.removeprefix("file://"))


def test_a_registered_version_says_where_it_comes_from(data, study, handed_over):
    client = MlflowClient(tracking_uri_of(study))
    version = client.get_model_version("small", "1")
    assert version.tags == {
        "study": "small",
        "trial": "1",
        "refit": "yes",
        "base": "demo-tiny",
        "data_fingerprint": data.interactions.fingerprint,
    }
    assert "The best trial (number 1, epoch 2)" in version.description
    run = client.get_run(version.run_id)
    assert (run.info.run_name, run.data.params["learning_rate"]) == ("refit of trial 1", "0.01")
    folder = folder_of(client, version)
    requirements = (folder / "requirements.txt").read_text().split()
    assert all(line.count("==") == 1 and "+" not in line for line in requirements)
    assert {line.split("==")[0] for line in requirements} == set(REQUIRED)
    example = json.loads((folder / "serving_input_example.json").read_text())["dataframe_split"]
    titles = example_of(data, CONFIG)
    assert example == {"columns": ["history", "candidates"], "data": [[titles["history"], titles["candidates"]]]}


def test_a_trial_s_own_adapter_can_be_registered_and_a_folder_s_base_goes_with_it(data, study, handed_over, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(BUNDLED / "demo-tiny", base)
    config, trial = CONFIG.model_copy(update={"model": str(base)}), study.trial(0)
    trial.write_config(config)
    uri = tracking_uri_of(study)
    assert register(study, trial, example_of(data, config), name="small", tracking_uri=uri) == 2
    client = MlflowClient(uri)
    version = client.get_model_version("small", "2")
    assert (version.tags["refit"], version.tags["trial"]) == ("no", "0")
    carried = (folder_of(client, version) / "artifacts" / "base" / "model.safetensors").read_bytes()
    assert carried == (base / "model.safetensors").read_bytes()


def test_a_store_without_the_study_is_said(data, study, handed_over, tmp_path):
    other = copy_of(study, tmp_path / "small")
    other.write_manifest({**study.read_manifest(), "study_id": "1" * 32})
    uri = tracking_uri_of(study)
    with pytest.raises(EnvironmentFault, match="does not have the study yet"):
        register(other, other.refit, example_of(data, CONFIG), name="small", tracking_uri=uri)


def test_the_requirements_are_all_that_ranking_imports():
    graph = grimp.build_graph("reranker", include_external_packages=True)
    ours = graph.find_upstream_modules("reranker.rank") | {"reranker.rank"}
    needed = {name for module in ours for name in graph.find_modules_directly_imported_by(module)}
    outside = {name.partition(".")[0] for name in needed if not name.startswith("reranker")} - sys.stdlib_module_names
    assert outside
    packages = {"yaml": "PyYAML", "PIL": "pillow", "pydantic_core": "pydantic"}  # with an exact version
    outside = {packages.get(name, name) for name in outside}
    assert outside - {"implicit"} <= set(REQUIRED)  # imported when a first stage is fitted, which ranking never does
