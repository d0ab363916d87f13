"""The skill of naming labels: what it is learned from, that it is exact in an adapter, kept once, and told of."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from peft import PeftModel
from safetensors.torch import load_file
from torch.multiprocessing.spawn import start_processes
from transformers import PreTrainedModel

from reranker.artifacts.trial_folder import TrialFolder
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data_config import DemoData
from reranker.errors import TrainingStopped
from reranker.evaluation.title_probe import title_probes
from reranker.modeling.lora.label_skill import Skill, put_beside, skilled
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_cache import BaseModels
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder
from reranker.ranking.ranker import Reranker
from reranker.training import label_skill_training
from reranker.training.label_skill_training import FindLists, SkillLesson, kept_skill, skill_key
from reranker.training.loss import Objective
from reranker.training.sft import fine_tune
from tests.present import present
from tests.trained import trains_the_same_after_a_break

pytestmark = pytest.mark.usefixtures("own_cache")
CPU = torch.device("cpu")
TAUGHT = TrialConfig(
    model="demo-tiny", candidates=8, epochs=1, examples_per_user=1, learning_rate=1e-3, lora_rank=4, skill_steps=5
)


@pytest.fixture(scope="module")
def small() -> RerankingData:
    return RerankingData.prepare(DemoData(users=64))


def catalogue(texts: list[str]) -> Catalogue:
    return Catalogue(load_tokenizer("demo-tiny"), texts)


def lesson(
    config: TrialConfig, data: RerankingData, told: list[str] | None = None, *, checkpointed: bool = False
) -> SkillLesson:
    tell = (lambda text: None) if told is None else told.append
    return SkillLesson(
        config, catalogue(data.interactions.item_texts), CPU, most_tokens=4096, most_rows=None,
        checkpointed=checkpointed, tell=tell, check=lambda: None,
    )  # fmt: skip


def random_skill(base: torch.nn.Module, rank: int = 3) -> Skill:
    torch.manual_seed(1)
    layers = {n: m for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith("_proj")}
    down = {name: torch.randn(rank, layer.in_features) / 10 for name, layer in layers.items()}
    return Skill(down, {name: torch.randn(layer.out_features, rank) / 10 for name, layer in layers.items()}, {})


@pytest.mark.slow
def test_a_base_learns_to_find_titles_that_it_was_not_taught(small):
    config = TAUGHT.model_copy(update={"skill_steps": 200})
    with BaseModels().base(config, CPU) as base:
        before = {name: weight.clone() for name, weight in base.state_dict().items()}
        skill = lesson(config, small).learn(base)
        assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert skill.facts["before"] < 0.4
    assert skill.facts["found"] > 0.9
    assert skill.facts["steps"] == 200


def test_titles_that_are_looked_at_are_not_trained_on_and_all_of_a_list_differ(small):
    texts = [*small.interactions.item_texts, *small.interactions.item_texts[:40]]
    lists = FindLists(catalogue(texts), TAUGHT, questions=8)
    trained, looked = ({texts[i] for some in lists.drawn(p, 0, 200) for i in some[0].candidates} for p in (0, 1))
    assert trained
    assert looked
    assert not trained & looked
    for some in lists.drawn(0, 0, 200):
        assert len({texts[i] for i in some[0].candidates}) == 8
        assert sorted(example.target for example in some) == list(range(8))
        assert all(example.history == (example.candidates[example.target],) for example in some)


@pytest.mark.parametrize("targets", ["all_linear", "qv"])
def test_peft_alone_gives_what_the_base_with_the_skill_and_the_adapter_gives(tmp_path, targets):
    config = TAUGHT.model_copy(update={"lora_targets": targets, "lora_alpha": 5})
    base = load_base(config, CPU)
    skill, ids = random_skill(base), torch.arange(10, 40)[None]
    model = attach_lora(base, config)
    with torch.no_grad(), skilled(model, skill, CPU):
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
        expected = model.eval()(ids).logits
        model.save_pretrained(str(tmp_path))
    put_beside(tmp_path, skill)
    loaded = PeftModel.from_pretrained(load_base(config, CPU), str(tmp_path)).eval()
    plain = load_base(config, CPU)(ids).logits
    with torch.no_grad():
        assert torch.allclose(loaded(ids).logits, expected, atol=1e-4)
        assert not torch.allclose(plain, expected, atol=0.1)


def test_the_kept_adapter_ranks_as_the_trial_did(small, tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    report = fine_tune(TAUGHT, small, folder=folder)
    reranker = Reranker.load(folder.adapter)
    texts, lists = small.interactions.item_texts, small.validation(TAUGHT)[:20]
    for example, greater in zip(lists, folder.read_ranks()[1].greater, strict=False):
        ranking = reranker.rank([texts[i] for i in example.history], [texts[i] for i in example.candidates])
        assert ranking.order.index(example.target) == greater
    assert report.figures["applied/skill_steps"] == 5
    assert json.loads((folder.adapter / "reranker.json").read_text())["skill"]["steps"] == 5


@pytest.mark.slow
def test_a_skill_is_learned_once_and_anew_where_it_is_damaged(small, tmp_path, monkeypatch):
    learned = []
    learn = SkillLesson.learn
    monkeypatch.setattr(SkillLesson, "learn", lambda self, base: learned.append(1) or learn(self, base))

    def weights() -> dict[str, torch.Tensor]:
        fine_tune(TAUGHT, small, folder=TrialFolder(tmp_path / "trial"))
        return load_file(tmp_path / "trial" / "adapter" / "adapter_model.safetensors")

    first = weights()
    fine_tune(TAUGHT.model_copy(update={"lora_rank": 8, "learning_rate": 1e-4, "seed": 5}), small)
    assert len(learned) == 1
    (kept,) = (tmp_path / "cache" / "skills").glob("*.safetensors")
    content = bytearray(kept.read_bytes())
    content[-3] ^= 1
    kept.write_bytes(content)
    again = weights()
    assert len(learned) == 2
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    fine_tune(TAUGHT.model_copy(update={"label_position": "before"}), small)
    assert len(learned) == 3


def test_a_skill_is_of_one_way_of_writing_prompts(small):
    base, ours = load_base(TAUGHT, CPU), catalogue(small.interactions.item_texts)
    other = catalogue(small.interactions.item_texts)
    other.tokenizer.chat_template = other.tokenizer.get_chat_template().replace("<|im_end|>", "<|im_end|><|im_end|>")
    assert skill_key(TAUGHT, ours, base) != skill_key(TAUGHT, other, base)


def test_without_a_place_to_keep_it_the_training_goes_on(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "file"))
    assert fine_tune(TAUGHT, small).figures["applied/skill_steps"] == 5


def test_who_comes_second_waits_for_the_first_and_takes_what_it_made(tmp_path, monkeypatch):
    monkeypatch.setattr(label_skill_training, "_WAIT_S", 0.01)
    path = tmp_path / "cache" / "skills" / "key.safetensors"
    path.parent.mkdir(parents=True)
    skill, told, begun = random_skill(load_base(TAUGHT, CPU)), list[str](), threading.Event()

    def make() -> Skill:
        raise AssertionError("the other one makes it")

    with FileLock(f"{path}.lock"):

        def finish() -> None:
            begun.set()
            skill.write(path)

        threading.Timer(0.2, finish).start()
        taken = kept_skill("key", make, lambda: None, told.append)
    assert begun.is_set()
    assert told[0].startswith("waiting for another trial")
    assert all(torch.equal(taken.down[name], part) for name, part in skill.down.items())


def test_a_base_that_is_a_toy_and_a_catalogue_without_titles_are_told_and_not_taught(small):
    auto = TAUGHT.model_copy(update={"skill_steps": "auto"})
    with BaseModels().base(auto, CPU) as base:
        assert "a skill of its own" in lesson(auto, small).learn(base).facts["why"]
        few = SkillLesson(
            TAUGHT, catalogue(["Kiss", "Bride", "Kiss"] * 9), CPU, most_tokens=None, most_rows=None,
            tell=lambda text: None, check=lambda: None,
        )  # fmt: skip
        assert few.learn(base).facts["why"] == "no list of 8 different titles can be made, since there are 2"
    assert fine_tune(auto, small).figures["applied/skill_steps"] == 0


def test_a_base_that_names_labels_already_is_not_taught(small, monkeypatch):
    monkeypatch.setattr(label_skill_training, "keeps_own_skill", lambda config: False)
    monkeypatch.setattr(SkillLesson, "_look", lambda self, model, number: 0.97)
    auto = TAUGHT.model_copy(update={"skill_steps": "auto"})
    with BaseModels().base(auto, CPU) as base:
        skill = lesson(auto, small).learn(base)
    assert skill.facts["why"] == "untrained it finds 97% of candidates by their titles"
    assert skill.down == {}


@pytest.mark.slow
def test_a_lesson_ends_when_it_is_enough(small, monkeypatch):
    monkeypatch.setattr(label_skill_training, "keeps_own_skill", lambda config: False)
    monkeypatch.setattr(label_skill_training, "_ENOUGH", 0.3)
    auto = TAUGHT.model_copy(update={"skill_steps": "auto"})
    with BaseModels().base(auto, CPU) as base:
        facts = lesson(auto, small).learn(base).facts
    assert facts["found"] >= 0.3
    assert facts["steps"] < 300
    assert facts["steps"] % 5 == 0


def test_a_training_can_be_stopped_in_the_lesson(small):
    with pytest.raises(TrainingStopped):
        fine_tune(TAUGHT, small, should_stop=lambda: True)


@pytest.mark.parametrize(
    "knobs", [{"rslora": True}, {"dora": True}, {"max_grad_norm": 0.1}, {"lora_rank": 8, "lora_dropout": 0.5}]
)
def test_trials_that_share_a_skill_are_taught_the_same(small, knobs):
    config, ours, skills, keys = TAUGHT.model_copy(update=knobs), catalogue(small.interactions.item_texts), [], []
    for taught in (TAUGHT, config):
        with BaseModels().base(taught, CPU) as base:
            skills.append(lesson(taught, small).learn(base))
            keys.append(skill_key(taught, ours, base))
    assert keys[0] == keys[1]
    one, other = skills
    assert one.up, "something was taught"
    assert all(torch.equal(other.up[name], part) for name, part in one.up.items())
    assert all(torch.equal(other.down[name], part) for name, part in one.down.items())


@pytest.mark.parametrize("knobs", [{"prompt_order": "history_first"}, {"objective": "token_ce"}])
def test_every_kind_of_prompt_and_objective_can_be_taught(small, knobs):
    assert fine_tune(TAUGHT.model_copy(update=knobs), small).figures["applied/skill_steps"] == 5


def test_with_gradient_checkpointing_the_same_is_taught(small, monkeypatch):
    calls = []
    original = PreTrainedModel.activation_checkpointing_enable
    monkeypatch.setattr(
        "transformers.PreTrainedModel.activation_checkpointing_enable",
        lambda self, *args, **options: calls.append(1) or original(self, *args, **options),
    )
    config, bases, skills = TAUGHT.model_copy(update={"skill_steps": 4}), BaseModels(), []
    for checkpointed in (False, True):
        with bases.base(config, CPU) as base:
            skills.append(lesson(config, small, checkpointed=checkpointed).learn(base))
            assert base.is_activation_checkpointing == checkpointed
        assert len(calls) == checkpointed
        assert not base.is_activation_checkpointing
    plain, saved = skills
    assert plain.up, "something was taught"
    for name, part in plain.up.items():
        assert torch.allclose(saved.up[name], part, atol=1e-5)


def _taught(rank: int, count: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=count, rank=rank)
    data = RerankingData.prepare(DemoData(users=64))
    with BaseModels().base(TAUGHT, CPU) as base:
        skill = lesson(TAUGHT, data).learn(base)
    skill.write(folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_teach_what_one_teaches(small, tmp_path):
    with BaseModels().base(TAUGHT, CPU) as base:
        alone = lesson(TAUGHT, small).learn(base)
    start_processes(_taught, (2, _free_port(), tmp_path), nprocs=2, start_method="spawn")
    first, second = (present(Skill.read(tmp_path / f"{rank}.safetensors")) for rank in range(2))
    for name, part in alone.up.items():
        assert torch.equal(first.up[name], second.up[name])
        assert torch.allclose(first.up[name], part, atol=1e-5)
    assert (first.facts["before"], first.facts["found"]) == (alone.facts["before"], alone.facts["found"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_training_that_goes_on_gives_exactly_what_one_without_a_break_gives(small, tmp_path):
    config = TAUGHT.model_copy(update={"epochs": 2})
    assert trains_the_same_after_a_break(config, small, tmp_path)


def test_a_probe_takes_any_of_equal_titles_for_right():
    texts = ["Kiss", "Bride", "Kiss", "Sword"]
    encoder = PromptEncoder(catalogue(texts), TrialConfig(model="demo-tiny", candidates=4, skill_steps=0))
    examples = [Example(user, (1,), (2, 1, 0, 3), 0) for user in range(40)]
    probes = title_probes(encoder.catalogue, encoder.config, examples)
    assert {probe.right for probe in probes} == {(0, 2), (1,), (3,)}


def test_titles_that_are_asked_are_the_same_for_all_configurations_and_a_hundred_at_most(demo):
    config = TrialConfig(model="demo-tiny", skill_steps=0)
    texts = catalogue(demo.interactions.item_texts)
    one, other = (
        title_probes(texts, c, demo.validation(config)) for c in (config, config.model_copy(update={"seed": 3}))
    )
    assert [(p.row, p.right) for p in one] == [(p.row, p.right) for p in other]
    assert len(one) == len({p.row for p in one}) == 100
    counts = np.bincount([p.right[0] for p in one], minlength=20)
    assert counts.min() >= 1


def test_a_toy_that_is_not_taught_by_titles_is_not_asked_by_them(small):
    config = TAUGHT.model_copy(update={"skill_steps": "auto"})
    assert title_probes(catalogue(small.interactions.item_texts), config, small.validation(config)) == []
    assert "titles_found" not in fine_tune(config, small).figures


@pytest.mark.slow
def test_reports_tell_how_many_titles_are_found(small):
    figures = fine_tune(TAUGHT.model_copy(update={"skill_steps": 200, "learning_rate": 1e-6}), small).figures
    assert figures["titles_asked"] == 64
    assert figures["titles_found"] > 0.8


@pytest.mark.parametrize("sharing", [1, 8])
def test_a_share_of_questions_by_title_stays_in_the_training(small, sharing, monkeypatch):
    """Half of the questions: as many as there are examples, none of them corrected or counted as an example."""
    seen: list[int] = []
    run = Objective.loss
    monkeypatch.setattr(
        Objective, "loss", lambda self, logits, t, *others: seen.append(len(t)) or run(self, logits, t, *others)
    )
    knobs = {"skill_steps": 0, "skill_mix": 0.5, "list_sharing": sharing, "effective_batch": 16}
    figures = fine_tune(TAUGHT.model_copy(update=knobs), small).figures
    assert figures["applied/examples"] == 64
    assert sum(seen) == 128
    assert figures["applied/optimizer_steps"] == 4
