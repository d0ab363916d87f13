"""A base and a catalogue → the skill of naming a candidate's label: "find this candidate" in lists of random items.

Self-supervised: each candidate of a list is asked for by its own title, so one pass teaches many labels.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from filelock import FileLock, Timeout
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from reranker.config import TrialConfig
from reranker.data.example import NOBODY, Example
from reranker.data.hash_random import IntArray, random_bits, shuffled
from reranker.data.item_token_cache import Catalogue
from reranker.modeling.checkpoints.model_names import keeps_own_skill
from reranker.modeling.lora.fused_lora import fuse
from reranker.modeling.lora.label_skill import Skill
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import base_dtype, base_fingerprint
from reranker.modeling.process_group import add_up, of_first, worker_rank, workers
from reranker.modeling.sharded_base import idle_pass, passes_missing
from reranker.prompting.chat import chat_fingerprint
from reranker.prompting.forward_passes import Limits, Pass, on_device, plain_passes, shared_passes
from reranker.prompting.prompts import FIND, PromptEncoder
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder
from reranker.training.label_skill_cost import LISTS, RANK, lesson_config, lesson_question
from reranker.training.loss import Objective

_VERSION = 2  # of the lesson: a stored skill of another version is not used
_RATE = 1e-3  # for a base of SmolLM2-135M's width; wider ones get less
_WIDTH = 576
_WARMUP = 5  # steps
_ALONE = 8  # questions per list if each needs its own prompt
_ENOUGH = 0.95  # share of candidates found in held-out lists
_MOST = 300  # steps, if their number is automatic
_EVERY = 5  # steps between two looks at held-out lists
_LOOKS = 4  # lists per look
_TRAINED, _HELD_OUT, _TITLES = range(3)  # purposes of random numbers
_WAIT_S = 1.0
_KNOBS = (
    "candidates", "label_style", "label_position", "prompt_order", "max_title_tokens", "max_prompt_tokens", "objective",
    "skill_steps",
)  # fmt: skip


def skill_key(config: TrialConfig, catalogue: Catalogue, base: PreTrainedModel) -> str:
    """A hash of what the skill depends on: base, tokenised catalogue, and the knobs of prompt and answer."""
    knobs = {name: getattr(lesson_question(config), name) for name in _KNOBS}
    titles = catalogue.fingerprint(config.max_title_tokens)
    settings = [_VERSION, RANK, _RATE, _WARMUP, LISTS, _ALONE, _ENOUGH, _MOST, _EVERY, _LOOKS]
    held_as = str(base.dtype) if config.quantisation == "none" else f"{base.dtype} {config.quantisation}"
    inputs = json.dumps(
        [settings, base_fingerprint(base), chat_fingerprint(catalogue.tokenizer), held_as, titles, knobs]
    )
    return hashlib.sha256(inputs.encode()).hexdigest()[:32]


def kept_skill(key: str, learn: Callable[[], Skill], check: Callable[[], None], tell: Callable[[str], None]) -> Skill:
    """The skill with this key from the cache folder; if missing, all workers learn it together and keep it there.

    Waits while another group of workers learns it. If it cannot be kept, it stays in these processes.
    """
    path = cache_folder() / "skills" / f"{key}.safetensors"
    is_first = worker_rank() == 0
    while True:
        with contextlib.ExitStack() as stack:
            is_our_turn = True
            if is_first:
                try:
                    make_folder(path.parent)
                    stack.enter_context(FileLock(f"{path}.lock", timeout=0))
                except Timeout:
                    is_our_turn = False
                except (OSError, NotImplementedError):  # the latter on a file system without locks
                    pass
            stored = of_first(Skill.read(path) if is_first else None)
            if stored is not None:
                assert isinstance(stored, Skill)
                return stored
            if of_first(is_our_turn):
                learned = learn()
                if is_first:
                    with contextlib.suppress(OSError):
                        learned.write(path)
                return learned
        tell("waiting for another trial, which teaches the base to name labels")
        time.sleep(_WAIT_S)
        check()


class FindLists:
    """Lists of random items with distinct titles, and questions for them by title; some titles are held out.

    Args:
        questions: per list.
    """

    def __init__(self, catalogue: Catalogue, config: TrialConfig, questions: int) -> None:
        self._n, self._questions = config.candidates, questions
        _, items = np.unique(catalogue.titles(config.max_title_tokens).texts, return_index=True)
        self.titles = len(items)  # distinct ones
        items = items[shuffled(random_bits(_TITLES), len(items))[0]]
        held_out = min(len(items) // 4, 200)
        held_out = held_out if held_out >= self._n else 0
        self._items = {_HELD_OUT: items[:held_out] if held_out else items, _TRAINED: items[held_out:]}

    def drawn(self, purpose: int, first: int, count: int) -> list[list[Example]]:
        """`count` lists from number `first` on, each as the examples that ask for its candidates."""
        return [self._list(self._items[purpose], purpose, number) for number in range(first, first + count)]

    def _list(self, items: IntArray, purpose: int, number: int) -> list[Example]:
        chosen = items[shuffled(random_bits(purpose, number, 0), len(items))[0][: self._n]].tolist()
        places = shuffled(random_bits(purpose, number, 1), self._n)[0][: self._questions].tolist()
        return [Example(NOBODY, (chosen[place],), tuple(chosen), place) for place in places]


class SkillLesson:
    """Teaches one base on all workers together; each worker takes some of a step's lists.

    Args:
        most_tokens: of a pass, with padding; None: no limit.
        most_rows: examples of a pass; None: no limit.
        checkpointed: only the inputs of layers are kept for the backward pass.
        check: called after each step on every worker; raises to end the training.
    """

    def __init__(
        self,
        config: TrialConfig,
        catalogue: Catalogue,
        device: torch.device,
        *,
        most_tokens: int | None,
        most_rows: int | None,
        checkpointed: bool = False,
        tell: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        self._config, self._device, self._tell, self._check = lesson_question(config), device, tell, check
        self._limits, self._checkpointed = Limits(most_tokens, most_rows), checkpointed
        self._encoder = PromptEncoder(catalogue, self._config, FIND)
        self._shares = self._encoder.shares_lists
        questions = config.candidates if self._shares else min(_ALONE, config.candidates)
        self._lists = FindLists(catalogue, config, questions)
        self._objective = Objective(self._encoder, device)
        self._mixed = base_dtype(config, device) == torch.bfloat16
        self._uncorrected = np.zeros(len(catalogue.texts), np.float32)
        self.rows_of_pass = 1  # the last pass's examples

    def learn(self, base: PreTrainedModel) -> Skill:
        """What to add to the base; nothing if it needs no lesson, or the catalogue is too small for one."""
        began = time.perf_counter()
        n, titles, automatic = self._config.candidates, self._lists.titles, self._config.skill_steps == "auto"
        if keeps_own_skill(self._config):
            return Skill.none(f"{self._config.model} was made with a skill of its own")
        if titles < n:
            return Skill.none(f"no list of {n} different titles can be made, since there are {titles}")
        torch.manual_seed(0)
        model = attach_lora(base.to(self._device), lesson_config(self._config))
        fuse(model)
        if self._checkpointed:  # until the base is given back
            base.activation_checkpointing_enable({"use_reentrant": False})
        try:
            found_before = self._look(model, 0)
            if automatic and found_before >= _ENOUGH:
                return Skill.none(
                    f"untrained it finds {found_before:.0%} of candidates by their titles", found=found_before
                )
            steps, found_share = self._train(model, _MOST if automatic else int(self._config.skill_steps), automatic)
            seconds = time.perf_counter() - began
            return Skill.of(model, {"steps": steps, "seconds": seconds, "before": found_before, "found": found_share})
        finally:
            model.unload()

    def _train(self, model: PeftModel, most: int, automatic: bool) -> tuple[int, float]:
        """The number of steps, and the share found in held-out lists after them."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        rate = _RATE * math.sqrt(_WIDTH / model.get_input_embeddings().embedding_dim)
        optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
        recent: list[float] = []
        for step in range(1, most + 1):
            for group in optimiser.param_groups:
                group["lr"] = rate * min(1.0, step / _WARMUP)
            recent = [*recent[1 - _EVERY :], self._step(model, parameters, step)]
            optimiser.step()
            optimiser.zero_grad()
            self._tell(f"teaching the base to name labels, step {step}: it finds {recent[-1]:.0%}")
            self._check()
            if automatic and step % _EVERY == 0 and sum(recent) >= _ENOUGH * _EVERY:
                found_share = self._look(model, step)
                if found_share >= _ENOUGH:
                    return step, found_share
        return most, self._look(model, most)

    def _step(self, model: PeftModel, parameters: list[torch.nn.Parameter], step: int) -> float:
        """Compute the clipped gradient of the mean loss; returns the share of right answers in the step."""
        model.train()
        count = max(LISTS, workers())
        lists = self._lists.drawn(_TRAINED, step * count, count)
        questions = sum(map(len, lists))
        right = torch.zeros((), device=self._device)
        passes = list(self._passes(lists))
        idle = passes_missing(model, len(passes))
        for number, batch in enumerate([*passes[-1:] * idle, *passes]):
            counts = number >= idle
            with self._objective.answering(model, batch):
                logits = self._logits(model, batch)
                share = counts * len(batch["targets"]) / questions
                torch.autograd.backward(share * self._objective.loss(logits, batch["targets"]))
            right += counts * (self._objective.first(logits) == batch["targets"]).sum()
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        add_up([*(p.grad for p in parameters if p.grad is not None), right])
        torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        return float(right) / questions

    @torch.no_grad()
    def _look(self, model: PeftModel, number: int) -> float:
        """The share found in held-out lists."""
        model.eval()
        lists = self._lists.drawn(_HELD_OUT, number * _LOOKS, _LOOKS)
        right = torch.zeros((), device=self._device)
        passes = list(self._passes(lists))
        for _ in range(passes_missing(model, len(passes))):
            idle_pass(model)
        for batch in passes:
            with self._objective.answering(model, batch):
                right += (self._objective.first(self._logits(model, batch)) == batch["targets"]).sum()
        add_up([right])
        return float(right) / sum(map(len, lists))

    def _passes(self, lists: list[list[Example]]) -> Iterator[Pass]:
        """The passes of this worker's share of the lists, on its device."""
        own_lists = lists[worker_rank() :: workers()]
        passes: Iterator[Pass] = iter(())
        if self._shares and own_lists:
            prompts = [self._encoder.encode_shared(examples) for examples in own_lists]
            passes = shared_passes(self._encoder, own_lists, prompts, self._limits, self._uncorrected)
        elif own_lists:
            questions = [question for examples in own_lists for question in examples]
            passes = plain_passes(self._encoder, questions, self._encoder.encode(questions), self._limits)
        for batch in passes:
            self.rows_of_pass = len(batch["targets"])
            yield on_device(batch, self._device)

    def _logits(self, model: PeftModel, batch: Pass) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            return self._objective.logits(model, batch)
