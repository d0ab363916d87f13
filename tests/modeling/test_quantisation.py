"""A quantised base: what it takes, that it is trained and stored like any other, and where it is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from peft import PeftModel

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig, build_trial_config
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError
from reranker.evaluation.evaluate import evaluate
from reranker.evaluation.scoring import EncodedLists, flops_per_list, score
from reranker.modeling.checkpoints import quantisation
from reranker.modeling.checkpoints.model_files import shape_of
from reranker.modeling.memory.memory_estimate import GIB, PassSize, estimate
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import base_fingerprint, load_base
from reranker.prompting.prompts import PromptEncoder
from reranker.training.sft import fine_tune
from reranker.training.trainer import RerankerTrainer
from tests.present import present
from tune.run_search import main as run_search

pytestmark = pytest.mark.usefixtures("own_cache")
CPU = torch.device("cpu")
NF4 = TrialConfig(
    model="demo-tiny", quantisation="nf4", candidates=8, epochs=2, examples_per_user=2, learning_rate=2e-3, lora_rank=4,
    skill_steps=2,
)  # fmt: skip
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: pip install '.[nf4]'"
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


@needs_package
def test_peft_alone_gives_what_the_trial_scored(small, tmp_path):
    report = fine_tune(NF4, small, folder=TrialFolder(tmp_path / "trial"))
    encoder = PromptEncoder(BaseModels().catalogue(NF4, small), NF4)
    lists = small.validation(NF4)
    base = load_base(NF4, CPU)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "trial" / "adapter")).eval()
    encoded = EncodedLists.of(encoder, lists)
    figures = evaluate(score(loaded, encoded), np.array([e.target for e in lists]), None, 1.0).figures
    assert figures["val_loss"] == pytest.approx(report.figures["val_loss"], abs=2e-4)
    plain = load_base(NF4.model_copy(update={"quantisation": "none"}), CPU)
    assert report.figures["applied/parameters"] > sum(p.numel() for p in plain.parameters())
    assert flops_per_list(base, encoded) == flops_per_list(plain, encoded)


@needs_package
def test_the_adapter_of_a_quantised_base_is_trained_in_fp32(small, monkeypatch):
    seen = set[torch.dtype]()

    class Watched(RerankerTrainer):
        def training_step(self, *args, **kwargs):
            seen.update(p.dtype for p in self.model.parameters() if p.requires_grad)
            return super().training_step(*args, **kwargs)

    monkeypatch.setattr("reranker.training.sft.RerankerTrainer", Watched)
    fine_tune(NF4, small)
    assert seen == {torch.float32}


@needs_package
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, tmp_path):
    whole, broken = TrialFolder(tmp_path / "a"), TrialFolder(tmp_path / "b")
    fine_tune(NF4, small, folder=whole, resume=True)
    fine_tune(NF4, small, folder=broken, resume=True, on_report=lambda report: False)
    fine_tune(NF4, small, folder=broken, resume=True)
    first, second = ([r["val_loss"] for r in folder.read_reports()] for folder in (whole, broken))
    assert len(first) == 2
    assert first == second


@needs_package
def test_a_quantised_base_and_another_have_fingerprints_of_their_own():
    plain = load_base(TrialConfig(model="demo-tiny"), CPU)
    quantised = load_base(NF4, CPU)
    assert base_fingerprint(quantised) == base_fingerprint(load_base(NF4, CPU)) != base_fingerprint(plain)


@needs_package
@pytest.mark.slow
def test_the_weights_of_a_real_model_are_estimated_within_a_twentieth(smollm2_tokenizer):
    config = TrialConfig(model="smollm2-135m", quantisation="nf4", precision="bf16")
    base = load_base(config, CPU)
    held = 0
    for parameter in base.parameters():
        held += parameter.numel() * parameter.element_size()
        if (state := getattr(parameter, "quant_state", None)) is not None:
            held += state.absmax.numel() + state.state2.absmax.numel() * 4 + state.state2.code.numel() * 4
    guess = estimate(config, present(shape_of("smollm2-135m")), PassSize(1, 100), on_gpu=True)
    assert guess.weights == pytest.approx(held, rel=0.05)


@pytest.mark.parametrize(("model", "gib"), [("qwen3-1.7b", 1.26), ("qwen3-4b", 2.47), ("qwen3-8b", 5.66)])
def test_a_large_model_takes_half_a_byte_a_weight_besides_its_embeddings(model, gib):
    config = TrialConfig(model=model, quantisation="nf4")
    guess = estimate(config, present(shape_of(model)), PassSize(1, 500), on_gpu=True)
    assert guess.weights / GIB == pytest.approx(gib, abs=0.01)


STUDY = """
study: {name: nf4, trials: 2}
data: {source: demo}
fixed: {model: demo-tiny}
space:
  quantisation: {choice: [none, nf4]}
  learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}
"""


def test_without_a_gpu_it_is_refused_before_anything_starts(tmp_path, capsys):
    (tmp_path / "study.yaml").write_text(STUDY)
    assert run_search([str(tmp_path / "study.yaml"), "--check", "--runs", str(tmp_path / "runs")]) == 2
    told = capsys.readouterr().err
    assert "quantisation: must be none where trials train on a CPU" in told
    assert "Traceback" not in told


def test_without_the_package_it_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match=r"needs the package bitsandbytes: pip install 'reranker-tuner\[nf4\]'"):
        quantisation.check_quantiser()


@pytest.mark.parametrize("knobs", [{"dora": True}, {"lora_init": "pissa"}])
def test_what_needs_the_base_s_own_weights_does_not_go_with_it(knobs):
    with pytest.raises(InputError, match="dora and lora_init must be left out with quantisation"):
        build_trial_config({"model": "demo-tiny", "quantisation": "nf4", **knobs})
