"""Names of models: what each stands for, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reranker.config import TrialConfig
from reranker.errors import InputError
from reranker.models import BUNDLED, MODELS, attach_lora, check_name, load_base, load_tokenizer, resolve


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("qwen3-1.6b", "qwen3-1.7b"), ("qwen3-2b", "qwen3-1.7b"), ("smolm2-135m", "smollm2-135m"), ("demo", "demo-")],
)
def test_a_model_that_does_not_exist_gets_the_nearest_name(asked, nearest):
    with pytest.raises(InputError, match=nearest):
        check_name(asked)


def test_a_hub_id_and_a_folder_are_taken_as_they_are(tmp_path):
    check_name("Qwen/Qwen3-0.6B")
    assert resolve("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert resolve(str(tmp_path)) == tmp_path.resolve()


def test_a_missing_gguf_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such model folder"):
        check_name(str(tmp_path / "model.gguf"))


def test_the_demo_models_are_shipped_in_under_2_mb():
    weights = sorted(BUNDLED.glob("demo-*/model.safetensors"))
    assert [path.parent.name for path in weights] == ["demo-small", "demo-tiny"]
    assert sum(path.stat().st_size for path in weights) < 2_000_000


def test_every_shipped_name_is_in_the_table():
    assert {path.name for path in BUNDLED.glob("demo-*")} == {name for name, e in MODELS.items() if e.hub is None}


def test_a_folder_loads_like_a_name(tmp_path):
    named = load_base(TrialConfig(model="demo-tiny"), torch.device("cpu"))
    load_tokenizer("demo-tiny").save_pretrained(tmp_path)
    named.save_pretrained(tmp_path)
    copy = load_base(TrialConfig(model=str(tmp_path)), torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(named.parameters(), copy.parameters(), strict=True))


def test_lora_starts_as_the_base_and_trains_only_itself():
    config = TrialConfig(model="demo-tiny", lora_rank=3, lora_targets="qv")
    base = load_base(config, torch.device("cpu")).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = base(ids).logits
        model = attach_lora(base, config).eval()
        assert torch.equal(model(ids).logits, before)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name and ("q_proj" in name or "v_proj" in name) for name in trained)


def test_smollm2_loads_from_its_converted_gguf(smollm2_tokenizer):
    base = load_base(TrialConfig(model="smollm2-135m"), torch.device("cpu")).eval()
    text = smollm2_tokenizer.apply_chat_template(
        [{"role": "user", "content": "Where is the Eiffel Tower?"}], tokenize=False, add_generation_prompt=True
    )
    ids = smollm2_tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    answer = base.generate(ids, max_new_tokens=10, do_sample=False)[0, ids.shape[1] :]
    assert "Paris" in smollm2_tokenizer.decode(answer)


def test_every_table_entry_names_its_source():
    for name, entry in MODELS.items():
        assert entry.hub is not None or (Path(BUNDLED) / name / "config.json").exists()
