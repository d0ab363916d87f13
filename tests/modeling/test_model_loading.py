"""Names of models: what each stands for, and what a wrong one is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, InputError
from reranker.modeling.checkpoints.model_files import BUNDLED, local_folder, resolve, revision_of
from reranker.modeling.checkpoints.model_names import MODELS, check_name
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import base_dtype, check_base, load_base, load_tokenizer


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


@pytest.mark.parametrize(
    ("model", "capable", "precision", "half"),
    [
        ("smollm2-135m", ["avx512_bf16"], "auto", True),
        ("smollm2-135m", ["amx_bf16"], "auto", True),
        ("smollm2-135m", [], "auto", False),
        ("smollm2-135m", [], "bf16", True),
        ("smollm2-135m", ["avx512_bf16"], "fp32", False),
        ("demo-tiny", ["avx512_bf16"], "auto", False),
    ],
)
def test_a_cpu_holds_a_wide_base_in_bf16_where_it_has_instructions_for_it(model, capable, precision, half, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(capable, True))
    found = base_dtype(TrialConfig(model=model, precision=precision), torch.device("cpu"))
    assert found == (torch.bfloat16 if half else torch.float32)


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


def made(folder: Path, kind: str, **sizes: int) -> Path:
    """A tiny model of another architecture, with weights drawn at random."""
    config = AutoConfig.for_model(kind, **sizes)
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    load_tokenizer("demo-tiny").save_pretrained(folder)
    return folder


GPT2 = {"n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 600}
PHI = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 600, "intermediate_size": 8}
T5 = {"d_model": 8, "num_layers": 1, "num_heads": 2, "vocab_size": 600, "d_ff": 8, "d_kv": 4}
PHI3 = PHI | {"pad_token_id": 0, "num_key_value_heads": 2}


@pytest.mark.parametrize(("kind", "sizes"), [("gpt2", GPT2), ("phi", PHI), ("t5", T5)])
def test_a_model_that_is_not_built_like_llama_is_refused_before_a_trial_and_in_it(tmp_path, kind, sizes):
    config = TrialConfig(model=str(made(tmp_path, kind, **sizes)))
    with pytest.raises(InputError, match=r"model: the model must have the layers of a Llama, and \w+ has not .*Qwen3"):
        check_base(config)
    with pytest.raises((InputError, EnvironmentFault), match=r"Llama|Unrecognized configuration class"):
        load_base(config, torch.device("cpu"))


def test_targets_that_a_model_has_not_are_refused_with_the_ones_that_it_has(tmp_path):
    config = TrialConfig(model=str(made(tmp_path, "phi3", **PHI3)), lora_targets="qv")
    with pytest.raises(InputError, match=r"lora_targets: .* has no q_proj, v_proj .* try all_linear"):
        check_base(config)
    check_base(config.model_copy(update={"lora_targets": "all_linear"}))


@pytest.mark.parametrize("model", ["demo-tiny", "demo-small"])
def test_a_shipped_model_passes_the_check(model):
    check_base(TrialConfig(model=model))


def copied(folder: Path) -> Path:
    shutil.copytree(BUNDLED / "demo-tiny", folder / "copy")
    return folder / "copy"


def test_a_folder_without_weights_is_refused_before_a_trial(tmp_path):
    folder = copied(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"a model folder must hold its weights: model\.safetensors"):
        check_base(TrialConfig(model=str(folder)))


def test_weights_that_are_cut_short_are_refused_before_a_trial_and_in_it(tmp_path):
    weights = copied(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    config = TrialConfig(model=str(weights.parent))
    with pytest.raises(InputError, match=r"model.safetensors: model: the model's weights must be whole"):
        check_base(config)
    with pytest.raises(EnvironmentFault, match="could not be loaded"):
        load_base(config, torch.device("cpu"))


def test_a_missing_part_and_a_garbage_index_are_named(tmp_path):
    folder = copied(tmp_path)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    with pytest.raises(InputError, match=r"part-1.safetensors: model: this part of the model's weights is missing"):
        check_base(TrialConfig(model=str(folder)))
    index.write_text("[]")
    with pytest.raises(InputError, match="index of the model's weights must be readable"):
        check_base(TrialConfig(model=str(folder)))


def test_weights_that_would_be_drawn_at_random_are_refused(tmp_path):
    weights = copied(tmp_path) / "model.safetensors"
    kept = load_file(weights)
    kept.pop(next(name for name in kept if "q_proj" in name))
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"weights must be whole; 1 are missing .*q_proj"):
        load_base(TrialConfig(model=str(weights.parent)), torch.device("cpu"))


def test_a_model_with_code_of_its_own_is_refused_without_a_question(tmp_path, monkeypatch):
    folder = copied(tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "a.Mine", "AutoModelForCausalLM": "a.Mine"}}
    (folder / "config.json").write_text(json.dumps(facts | own))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(EnvironmentFault, match="could not be loaded"):
        check_base(TrialConfig(model=str(folder)))


@pytest.mark.parametrize("content", [b"", b"GG", b"garbage" * 100])
def test_a_gguf_file_that_is_none_is_refused_by_its_first_bytes(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(InputError, match=r"model.gguf: model: the file must be a model in the GGUF format"):
        check_name(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("rest", [b"", b"\3\0\0\0" + b"\xff" * 60, bytes(100)])
def test_a_gguf_file_that_is_cut_short_says_so_in_one_sentence(tmp_path, rest, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + rest)
    with pytest.raises(InputError, match=r"model.gguf: model: the .gguf file must be (a )?whole") as caught:
        resolve(str(tmp_path / "model.gguf"))
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "name", ["a--b/c", "-a/b", "a/b.git", "a/" + "b" * 200, "a\0b/c", "x" * 300, "~nobody-at-all/x", "a/b/c", " "]
)
def test_what_can_be_no_model_at_all_is_refused(name):
    with pytest.raises(InputError, match="model: "):
        check_name(name)


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A Hub that does not answer, and a client that must not be asked to try."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: pytest.fail("the Hub's client was asked"))


@pytest.mark.usefixtures("no_hub")
def test_without_a_network_a_hub_id_gets_a_remedy_at_once():
    with pytest.raises(
        EnvironmentFault, match=r"the Hub does not answer; fetch it .*hf download a/b --local-dir FOLDER"
    ):
        load_tokenizer("a/b")


@pytest.mark.usefixtures("no_hub")
def test_a_hub_that_is_switched_off_is_not_asked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("reranker.storage.hub.urlopen", lambda *_, **__: pytest.fail("the network was asked"))
    with pytest.raises(EnvironmentFault, match="is switched off by HF_HUB_OFFLINE"):
        load_tokenizer("qwen3-0.6b")


def test_a_hub_s_model_that_is_here_is_loaded_without_a_network(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / "1234"
    shutil.copytree(BUNDLED / "demo-tiny", snapshot)
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir()
    (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text("1234")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("the network was asked"))
    assert local_folder("a/b") == resolve("a/b") == snapshot
    assert revision_of("a/b") == "1234"
    assert revision_of("demo-tiny") == revision_of(str(snapshot)[:-4]) == ""
    assert load_tokenizer("a/b").get_vocab() == load_tokenizer("demo-tiny").get_vocab()
    (snapshot / "model.safetensors").unlink()
    assert local_folder("a/b") is None
    assert resolve("a/b") == "a/b"
