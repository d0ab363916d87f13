"""Architectures are tried before any trial: those that answer, those that share no lists, and those that do not fit."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Qwen3_5TextConfig

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import InputError
from reranker.evaluation.scoring import EncodedLists, Probe, inspect
from reranker.modeling.architecture_check import architecture_of
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import check_base
from reranker.prompting.prompts import PromptEncoder
from reranker.training.sft import fine_tune
from tune.run_search import main as run_search

SMALL = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def qwen35(tmp_path_factory) -> str:
    """A random base of Qwen3.5's architecture, three of its four layers linear attention, with the demo's tokenizer."""
    folder = tmp_path_factory.mktemp("qwen3_5")
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED / "demo-tiny")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(**SMALL, vocab_size=len(tokenizer), tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "kind", ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "gemma3", "smollm3", "ministral3", "phi3", "qwen3_moe"]
)
def test_known_families_answer_and_share_lists(kind):
    architecture = architecture_of(AutoConfig.for_model(kind))
    assert architecture.tried
    assert architecture.fault == ""
    assert architecture.shares_lists


@pytest.mark.parametrize("kind", ["qwen3_5", "qwen3_next", "gpt_oss"])
def test_layers_that_read_on_and_attention_of_its_own_share_no_lists(kind):
    architecture = architecture_of(AutoConfig.for_model(kind))
    assert architecture.tried
    assert architecture.fault == ""
    assert not architecture.shares_lists


def test_an_architecture_is_tried_without_a_trace_in_the_random_numbers():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    architecture_of(AutoConfig.for_model("qwen2", rope_theta=12345.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_an_architecture_without_the_layers_is_refused_before_any_trial(tmp_path):
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=2, n_head=2, vocab_size=300)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BUNDLED / "demo-tiny").save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the model must have the layers of a Llama, and GPT2LMHeadModel has not"):
        check_base(TrialConfig(model=str(tmp_path)))


def test_a_recurrent_base_is_trained_and_scored_with_a_list_for_each_example(qwen35):
    data = RerankingData.prepare(DemoData(users=40))
    config = TrialConfig(model=qwen35, candidates=5, epochs=1, examples_per_user=1, permutations=2, skill_steps=2)
    check_base(config)
    bases = BaseModels()
    encoder = PromptEncoder(bases.catalogue(config, data), config)
    assert not encoder.shares_lists
    report = fine_tune(config, data, bases=bases)
    assert 0 < report.figures["ndcg_at_10"] < 1
    lists = EncodedLists.of(encoder, data.validation(config)[:4])
    with bases.base(config, torch.device("cpu")) as base:
        together = inspect(base, lists, [Probe(0, lists.prompts[0], (0,))])
        alone = inspect(base, EncodedLists(lists.prompts[:1], lists.orders[:1], 1, lists.trie, lists.pad_id))
        logits = base(input_ids=torch.tensor([lists.prompts[0].input_ids])).logits[0, -1]
    whole = logits.softmax(-1)[list(lists.trie.tokens)]
    assert alone.mass[0] == pytest.approx(float(whole.sum()), rel=1e-4)
    assert together.mass[0] == pytest.approx(alone.mass[0], rel=1e-4)


@pytest.mark.slow
def test_the_plan_says_why_lists_are_not_shared(qwen35, tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(
        f"""
study: {{name: small, trials: 2}}
data: {{source: demo, users: 40}}
fixed: {{model: {qwen35}, candidates: 5}}
space: {{learning_rate: {{log_uniform: [1.0e-4, 1.0e-2]}}}}
"""
    )
    assert run_search([str(tmp_path / "study.yaml"), "--check", "--runs", str(tmp_path / "runs")]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "each example has a list of its own, since 3 of its 4 layers are linear attention" in told
