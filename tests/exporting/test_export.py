"""Adapters in other forms, loaded again by the programs that they are for, as far as those are installed here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reranker.artifacts.adapter_files import read_facts, settings_checksum, write_facts
from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.model_loading import load_base
from reranker.ranking.ranker import Reranker
from reranker.storage.atomic_files import write_json
from tests.tracked import make_study
from tests.trained import validation_lists
from tune import export
from tune.exporting.gguf_file import save_gguf
from tune.exporting.lora_folder import save_lora
from tune.exporting.model_card import Origin, model_card


def exported(trial, place: Path, form: str, *options: str) -> Path:
    assert export.main([str(trial.path), "--form", form, "--output", str(place), *options]) == 0
    return place


def probabilities(reranker: Reranker, lists) -> np.ndarray:
    return np.array([ranking.probabilities for ranking in reranker.rank_many(lists)])


def test_a_merged_model_alone_ranks_as_base_and_adapter_do(trial, lists, tmp_path):
    folder = exported(trial, tmp_path / "merged", "merged")
    config = trial.read_config().model_copy(update={"model": str(folder)})
    adapted, alone = (
        Reranker.load(trial.path),
        Reranker(load_base(config, torch.device("cpu")).eval(), config, torch.device("cpu")),
    )
    alone.adjustment = adapted.adjustment
    assert probabilities(alone, lists) == pytest.approx(probabilities(adapted, lists), rel=1e-4)
    base = Reranker(
        load_base(trial.read_config(), torch.device("cpu")).eval(), trial.read_config(), torch.device("cpu")
    )
    assert probabilities(base, lists) != pytest.approx(probabilities(adapted, lists), rel=1e-2)


def test_a_folder_for_vllm_has_the_adapter_and_ranks_from_there(trial, lists, tmp_path, capsys):
    folder = exported(trial, tmp_path / "lora", "lora")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "reranker.json",
    }  # fmt: skip
    assert probabilities(Reranker.load(folder), lists) == pytest.approx(probabilities(Reranker.load(trial.path), lists))
    said = capsys.readouterr().out
    assert (
        f"vllm serve {BUNDLED / 'demo-tiny'} --enable-lora --max-lora-rank 8 --lora-modules reranker={folder}" in said
    )


@pytest.mark.parametrize(
    ("field", "value", "rule"), [("use_dora", True, "no adapters of DoRA"), ("r", 600, "up to rank 512")]
)
def test_an_adapter_that_vllm_cannot_load_is_refused(trial, tmp_path, capsys, field, value, rule):
    copy = tmp_path / "adapter"
    copy.mkdir()
    for path in trial.adapter.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    facts = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps(facts | {field: value}))
    write_facts(copy, {**read_facts(copy), "settings": settings_checksum(copy)})
    assert export.main([str(copy), "--form", "lora", "--output", str(tmp_path / "out")]) == 2
    assert rule in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


SHAPE = {
    "vocab_size": 49152, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "kind", "dtype"),
    [
        (LlamaConfig(**SHAPE, rope_theta=100_000.0), LlamaForCausalLM, torch.float32),
        (Qwen3Config(**SHAPE, head_dim=128), Qwen3ForCausalLM, torch.bfloat16),  # transformers reads no other width
    ],
    ids=["llama, fp32", "qwen3, bf16"],
)
def test_a_gguf_file_read_back_is_the_model(smollm2_tokenizer, config, kind, dtype, tmp_path):
    torch.manual_seed(0)
    model = kind(config).to(dtype).eval()
    smollm2_tokenizer.save_pretrained(tmp_path / "saved")
    save_gguf(model, smollm2_tokenizer, tmp_path / "saved", tmp_path / "model.gguf", "tiny")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32).eval()
    ids = torch.tensor([smollm2_tokenizer("The question is: which of A, B or C?")["input_ids"]])
    with torch.no_grad():
        expected, found = (m(input_ids=ids).logits[0, -1].float() for m in (model.float(), back))
    assert found.numpy() == pytest.approx(expected.numpy(), abs=2e-3)
    text = "Where is A?\n1. Blade Runner (1982)"
    read = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    assert read(text)["input_ids"] == smollm2_tokenizer(text)["input_ids"]


def test_a_gguf_file_of_words_is_refused(trial, tmp_path, capsys):
    assert export.main([str(trial.path), "--form", "gguf", "--output", str(tmp_path / "out")]) == 2
    assert "written with a byte-pair tokenizer only (got 'WordLevel')" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_a_quantised_base_is_not_merged(trial, tmp_path):
    from tune.exporting.merged_model import merged

    with pytest.raises(InputError, match="ranks differently when it is merged"):
        merged(trial.adapter, trial.read_config().model_copy(update={"quantisation": "nf4"}), "")


def test_an_output_that_is_there_stays_as_it_is(trial, tmp_path, capsys):
    assert export.main([str(trial.path), "--form", "lora", "--output", str(tmp_path)]) == 2
    assert "--output: the output must not exist yet" in capsys.readouterr().err


def test_a_dry_run_lists_what_would_be_sent_and_needs_no_network(trial, tmp_path, capsys):
    folder = exported(trial, tmp_path / "lora", "lora", "--push", "me/reranker", "--dry-run")
    said = capsys.readouterr().out
    size = (folder / "adapter_model.safetensors").stat().st_size
    assert "would be sent to me/reranker, private:" in said
    assert f"adapter_model.safetensors  {size:,} bytes" in said


def test_a_hub_that_does_not_answer_is_told_and_the_export_is_kept(trial, tmp_path, capsys):
    place = tmp_path / "lora"
    assert export.main([str(trial.path), "--form", "lora", "--output", str(place), "--push", "me/reranker"]) == 2
    assert "the Hub does not take me/reranker" in capsys.readouterr().err
    assert (place / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("options", [["--public"], ["--dry-run"], ["--push", "no spaces please"]])
def test_options_that_say_nothing_are_refused(trial, tmp_path, options, capsys):
    with pytest.raises(SystemExit, match="2"):
        export.main([str(trial.path), "--form", "lora", "--output", str(tmp_path / "out"), *options])
    assert "--push" in capsys.readouterr().err


def test_the_card_of_a_winner_says_what_is_proven(tmp_path):
    study = make_study(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    card = model_card(
        TrialConfig(model="smollm2-135m"), Origin.of(study.trial(0).adapter), "lora", licence="", adds_counts=True
    )
    assert card.startswith(
        '---\nbase_model: "HuggingFaceTB/SmolLM2-135M-Instruct"\nlibrary_name: "peft"\nlicense: "apache-2.0"\n'
    )
    assert f"Study `{study.name}`, trial 0, data f00." in card
    assert "The best trial (number 0, epoch 2) ranks the true item first for 41% of users" in card
    assert "- Better than popularity: +" in card
    assert "`collaborative.npz` holds how often items were taken" in card


def test_the_card_of_another_trial_claims_nothing(tmp_path):
    study = make_study(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    card = model_card(
        TrialConfig(model="demo-tiny"), Origin.of(study.trial(1).adapter), "merged", licence="mit", adds_counts=False
    )
    assert "It is not the study's best trial" in card
    assert "Better than" not in card
    assert 'license: "mit"' in card
    assert "collaborative.npz" not in card


def test_the_card_of_a_model_in_a_folder_with_a_bar_in_its_name_has_a_whole_table():
    card = model_card(TrialConfig(model="models/a|b"), Origin(None), "lora", licence="", adds_counts=False)
    table = card[card.index("| | |") :]
    html = MarkdownIt("commonmark").enable("table").render(table)
    assert "<td>models/a|b</td>" in html


def test_the_card_of_a_refit_says_whose_figures_they_are(tmp_path):
    study = make_study(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    study.refit.adapter.mkdir(parents=True)
    write_json(study.refit.path / "recipe.json", {"trial": 0})
    origin = Origin.of(study.refit.adapter)
    assert (origin.trial, origin.is_refit) == (0, True)
    card = model_card(TrialConfig(model="demo-tiny"), origin, "gguf", licence="", adds_counts=False)
    assert "It is a refit: the trial's recipe on training and validation items. The figures are the trial's." in card


def test_pointwise_a_merged_model_ranks_the_same_and_its_card_says_how_it_is_asked(pointwise_trial, data, tmp_path):
    lists = validation_lists(data, pointwise_trial)[:4]
    folder = exported(pointwise_trial, tmp_path / "merged", "merged")
    config = pointwise_trial.read_config().model_copy(update={"model": str(folder)})
    alone = Reranker(load_base(config, torch.device("cpu")).eval(), config, torch.device("cpu"))
    adapted = Reranker.load(pointwise_trial.path)
    alone.adjustment = adapted.adjustment
    assert probabilities(alone, lists) == pytest.approx(probabilities(adapted, lists), rel=1e-4)
    card = (folder / "README.md").read_text()
    assert (
        "each is asked about in a prompt of its own, behind the history, and the log-odds of yes are its score" in card
    )
    assert "the scores are log p(yes) − log p(no) as the next token of each candidate's prompt" in card
    assert "| scoring | pointwise |" in card
    assert "label_style" not in card


def test_vllm_is_asked_for_yes_and_no_however_long_the_lists_are(pointwise_trial, tmp_path):
    long = pointwise_trial.read_config().model_copy(update={"candidates": 200})
    save_lora(pointwise_trial.adapter, long, tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()
    with pytest.raises(InputError, match="vLLM can be asked for 128 labels at most"):
        save_lora(pointwise_trial.adapter, long.model_copy(update={"scoring": "listwise"}), tmp_path)


def test_an_adapter_outside_a_study_has_no_figures(trial):
    card = model_card(TrialConfig(model="demo-tiny"), Origin.of(trial.adapter), "lora", licence="", adds_counts=False)
    assert "It lies in no study's folder, so nothing is known of its figures." in card
