"""`--check`: what a user is told of a study before any resource is asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from pathlib import Path

import pandas as pd
import pytest
import ray
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from bench.shop import make_shop
from reranker.data.assemble import RerankingData
from reranker.data.item_token_cache import Catalogue
from reranker.data.sources import movielens
from reranker.errors import InputError
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.model_loading import load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from tests.pictures import draw
from tests.present import present
from tune.run_search import main as run_search_main
from tune.study_file import loading
from tune.study_file.memory_plan import describe_memory, gpu_part, part_of
from tune.study_file.preflight import ModelCheck, check_models

PROJECT = Path(__file__).resolve().parents[2]
PRESETS = sorted((PROJECT / "search_spaces").glob("*.yaml"))


@pytest.fixture
def nothing_may_be_touched(monkeypatch):
    """No network, no GPU, no Ray: each is an error from here on."""

    touched = []

    def refuse(*what, **_):
        touched.append(what)
        raise OSError("--check touched what it must not")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.cuda, "_lazy_init", refuse)
    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # so that a hub would be asked
    yield
    assert touched == []


@pytest.mark.usefixtures("nothing_may_be_touched")
@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_prints_its_plan_without_gpu_or_network(preset, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path))
    monkeypatch.setattr(movielens, "_places", list)
    monkeypatch.chdir(tmp_path)
    make_shop(tmp_path)  # for presets of tables, which name those of the current folder
    items = pd.read_csv("items.csv").assign(image_path=draw(tmp_path / "a.png").name)
    items.to_csv("items.csv", index=False)
    assert run_search_main([str(preset), "--check", "--runs", str(tmp_path / "runs")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"\d+ trials by (ndcg_at_10|recall_at_1)", out)
    marks = {
        "qwen3_lora": r"epochs 2\b", "demo": "11 and 33 % of its epochs,", "laptop_smollm2": r"epoch 0.5\b",
        "gpu_smollm2": "epochs 0.0625, 0.1875 and 0.5625,",
    }.get(preset.stem, r"epochs? 1\b")  # fmt: skip
    assert re.search(rf"ASHA compares trials after {marks}", out)
    assert re.search(r"cost: at most [\d,]+ epochs, about [\d,]+ expected", out)
    assert "memory of a worker, estimated" in out
    assert ("not here yet" in out) == (preset.stem not in ("demo", "quick"))
    assert not (tmp_path / "runs").exists()


def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert run_search_main([str(PROJECT / "search_spaces" / "quick.yaml"), "--check", *options]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    {
        "asha": (
            [],
            "ASHA compares trials after epoch 1, and stops each that is not among the best third, unless it is catching up\n",
        ),
        "plain": (["--set", "study.asha.pace=0"], "stops each that is not among the best third\n"),
        "later": (
            ["--set", "study.asha={grace: 2, reduction: 2}"],
            "ASHA compares trials after epoch 2, and stops each that is not among the best half",
        ),
        "more": (["--set", "epochs=27"], "ASHA compares trials after epochs 3 and 9, and"),
        "decaying": (["--set", "schedule=cosine"], "% of its epochs, and stops"),
        "hyperband": (["--set", "study.scheduler=hyperband"], "asynchronous Hyperband compares"),
        "median": (["--set", "study.scheduler=median"], "below the median of the others"),
        "none": (["--set", "study.scheduler=none"], "no trial is stopped early"),
        "sampler": (["--sampler", "gp"], "sampler gp"),
    }.values(),
)
def test_the_plan_tells_how_trials_are_drawn_and_stopped(options, expected, tmp_path, capsys):
    assert expected in plan(tmp_path, capsys, *options)


@pytest.mark.parametrize(
    ("options", "expected"),
    {
        # 5 trials of 3 epochs.
        "none": (["--set", "study.scheduler=none"], "at most 15 epochs, about 15 expected"),
        "one": (["--trials", "1", "--set", "epochs=1"], ": 1 trial by ndcg_at_10"),
        "one, of one": (["--trials", "1", "--set", "epochs=1"], "at most 1 epoch, about 1 expected"),
        # A third goes on after the first: 5 × (1 + 2 / 3).
        "asha": ([], "at most 15 epochs, about 8 expected"),
        # Half goes on after the first: 5 × (1 + 2 / 2).
        "median": (["--set", "study.scheduler=median"], "at most 15 epochs, about 10 expected"),
        # 33 % of three epochs is the first.
        "decaying": (["--set", "schedule=linear"], "at most 15 epochs, about 8 expected"),
    }.values(),
)
def test_the_plan_tells_the_cost(options, expected, tmp_path, capsys):
    assert expected in plan(tmp_path, capsys, "--trials", "5", "--set", "epochs=3", *options)


def test_the_plan_tells_what_workers_compute_on_and_how(tmp_path, capsys):
    assert "compute: CPU, 1 thread a worker, fp32, label logits in fp32" in plan(tmp_path, capsys)
    real = plan(tmp_path, capsys, "--set", "model=smollm2-360m", "--set", "study.concurrency=1")
    assert f"compute: CPU, {min(4, os.cpu_count() or 1)} threads a worker" in real
    two = plan(tmp_path, capsys, "--set", "resources.cpus_per_worker=2", "--set", "precision=bf16")
    assert "compute: CPU, 2 threads a worker, a bf16 base under an fp32 adapter" in two


@pytest.mark.slow
def test_the_plan_tells_what_was_counted_of_the_largest_pass(tmp_path, capsys):
    def counted(**fixed) -> str:
        knobs = {"effective_batch": 16, **fixed}
        options = [text for knob, value in knobs.items() for text in ("--set", f"{knob}={value}")]
        (found,) = re.findall(r"activations \((.*)\) \+", plan(tmp_path, capsys, *options))
        return found

    # A prompt of at most 88 tokens is a list of 63 and a question of 25; a pass takes 4096.
    assert counted(list_sharing=1) == "16 × 88 tokens"
    assert counted(list_sharing="auto") == "2 lists of 63 tokens with 8 questions of 25"
    assert counted(list_sharing=16) == "1 list of 63 tokens with 16 questions of 25"
    assert counted(list_sharing=16, effective_batch=256) == "8 lists of 63 tokens with 16 questions of 25"
    assert counted(list_sharing=16, micro_batch=4) == "1 list of 63 tokens with 4 questions of 25"
    assert counted(list_sharing=4, micro_batch=9) == "2 lists of 63 tokens with 4 questions of 25"
    assert counted(list_sharing="auto", prompt_order="history_first") == "16 × 88 tokens"
    # The lesson asks for each of a list's candidates, by one title where a history has several; a half of questions by title doubles them.
    assert counted(list_sharing=4, skill_steps=5) == "2 lists of 63 tokens with 20 questions of 12"
    assert counted(list_sharing=8, skill_mix=0.5, effective_batch=64) == "8 lists of 63 tokens with 16 questions of 25"
    answered = "2 lists of 63 tokens with 8 questions of 27"  # by a label and the end of the turn
    assert counted(list_sharing="auto", objective="token_ce") == answered
    assert counted(**{"space.list_sharing": "{choice: [1, 8]}"}) == "16 × 88 tokens"  # which needs more


def test_lists_are_shared_among_a_worker_s_examples(tmp_path, capsys):
    two = ("--workers", "2", "--set", "list_sharing=16", "--set")
    assert "(1 list of 63 tokens with 8 questions of 25)" in plan(tmp_path, capsys, *two, "effective_batch=16")
    uneven = plan(tmp_path, capsys, *two, "effective_batch=15")
    assert "(7 × 88 tokens)" in uneven  # the trial fails, and says why


def test_of_a_model_that_has_not_read_the_data_lists_are_estimated_by_their_titles():
    knobs = ["list_sharing=8", "effective_batch=16", "history_length=20"]
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml", knobs)
    (line,) = [text for text in describe_memory(study, check_models(study, None, fetch=False)) if "demo-tiny" in text]
    assert "(1 list of 512 tokens with 7 questions of 512)" in line  # of 1024 tokens for 20 and 20 titles


def order_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    lines = plan(tmp_path, capsys, *(text for option in options for text in ("--set", option))).splitlines()
    return "".join(line for line in lines if line.startswith("history_first"))


def test_the_plan_tells_what_history_first_costs(tmp_path, capsys):
    line = order_line(tmp_path, capsys, "prompt_order=history_first", "effective_batch=32")
    found = re.fullmatch(
        r"history_first: each example computes its own list, (\d\.\d) times the tokens of candidates_first with "
        r"list_sharing 16",
        line,
    )
    study = loading.load(PROJECT / "search_spaces" / "quick.yaml")
    data = RerankingData.prepare(study.data)
    encoder = PromptEncoder(Catalogue(load_tokenizer("demo-tiny"), data.interactions.item_texts), study.base())
    prompts = [encoder.encode_shared([example]) for example in data.training_examples(study.base(), 0)]
    listed = sum(len(prompt.listed) for prompt in prompts) / len(prompts)
    asked = sum(len(prompt.questions[0].input_ids) for prompt in prompts) / len(prompts)
    assert float(present(found)[1]) == pytest.approx((listed + asked) / (listed / 16 + asked), abs=0.1)


@pytest.mark.parametrize(
    ("options", "sharing"),
    {
        "searched": (
            ["space.prompt_order={choice: [candidates_first, history_first]}", "effective_batch=16"],
            "list_sharing 8",
        ),
        "searched with another": (
            [
                "space.prompt_order+label_position={choice: [[history_first, after], [candidates_first, before]]}",
                "effective_batch=8",
            ],
            "list_sharing 4",
        ),
        "fixed": (["prompt_order=history_first", "effective_batch=64"], "list_sharing 16"),
        "candidates first": (["prompt_order=candidates_first", "list_sharing=1"], ""),
        "candidates first and shared": (["list_sharing=8"], ""),
        "too few for a list": (["prompt_order=history_first", "effective_batch=2"], ""),
    }.values(),
)
def test_it_is_told_where_that_order_is_possible_and_costs_anything(options, sharing, tmp_path, capsys):
    line = order_line(tmp_path, capsys, *options)
    assert line.endswith(sharing)
    assert bool(line) == bool(sharing)


def test_without_data_the_cost_of_an_order_is_not_told():
    study = loading.load(PROJECT / "search_spaces" / "quick.yaml", ["prompt_order=history_first"])
    assert not any("history_first" in line for line in describe_memory(study, check_models(study, None, fetch=False)))


def test_a_gpu_is_shared_by_as_many_workers_as_it_holds():
    shares = {needed: part_of(80.0, needed) for needed in (100, 50, 30, 25, 20, 1)}
    assert shares == {100: 1.0, 50: 1.0, 30: 0.5, 25: 0.3333, 20: 0.25, 1: 0.25}
    assert all(round(1 / share) * share <= 1 for share in shares.values())


def test_without_a_gpu_nothing_is_shared():
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml")
    assert gpu_part(study, check_models(study, None, fetch=False)) == 1.0


def test_a_tokenizer_whose_prompts_are_tokenised_whole_is_named():
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml")
    plain, whole = (describe_memory(study, [ModelCheck(study.base(), 100, True, joins)]) for joins in (False, True))
    (line,) = set(whole) - set(plain)
    assert "titles cannot be tokenised once" in line
    assert line.endswith(study.base().model)


def test_a_name_that_only_the_hub_can_know_is_said_to_be_unchecked(tmp_path, capsys):
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml", ["model=HugingFace/SmoLM2-135M"])
    lines = describe_memory(study, check_models(study, None, fetch=False))
    assert "  not checked, since that needs the network: whether the Hub has HugingFace/SmoLM2-135M" in lines
    known = loading.load(PROJECT / "search_spaces" / "demo.yaml", ["model=qwen3-8b"])
    assert not any("not checked" in line for line in describe_memory(known, check_models(known, None, fetch=False)))


def test_a_model_that_no_trial_could_train_is_refused_by_the_check(tmp_path):
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=600)).save_pretrained(tmp_path)
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml", [f"model={tmp_path}"])
    with pytest.raises(InputError, match="must have the layers of a Llama, and GPT2LMHeadModel has not"):
        check_models(study, None, fetch=False)


@pytest.mark.parametrize(("context", "refused"), [(64, True), (512, False)])
def test_prompts_that_are_longer_than_the_model_reads_are_refused_by_the_check(tmp_path, context, refused):
    """The demo's base with another context; twenty candidates with two words each are more than 64 tokens."""
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    file = tmp_path / "base" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": context}))
    study = loading.load(PROJECT / "search_spaces" / "demo.yaml", [f"model={tmp_path / 'base'}", "skill_steps=0"])
    data = RerankingData.prepare(study.data).sealed()
    if not refused:
        check_models(study, data, fetch=False)
        return
    with pytest.raises(InputError) as told:
        check_models(study, data, fetch=False)
    (fault,) = told.value.faults
    assert fault.field == "max_prompt_tokens"
    assert fault.rule == f"a prompt and its label must have at most the 64 tokens that {tmp_path / 'base'} reads"
    assert fault.hint == "lower candidates, history_length, max_title_tokens or max_prompt_tokens"
