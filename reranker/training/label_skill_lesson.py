"""A base and a catalogue → the skill of naming a candidate's label: "find this candidate", asked of lists of random items.

Self-supervised: a list is asked for each of its candidates by its own title, so a pass teaches as many labels as it holds.
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
from reranker.data.item_token_cache import Catalogue
from reranker.hash_random import IntArray, random_bits, shuffled
from reranker.modeling.checkpoints import base_dtype, base_fingerprint
from reranker.modeling.fused_lora import fuse
from reranker.modeling.label_skill import Skill, keeps_own_skill
from reranker.modeling.lora import attach_lora
from reranker.process_group import add_up, of_first, worker_rank, workers
from reranker.prompting.forward_passes import Limits, Pass, on_device, plain_passes, shared_passes
from reranker.prompting.prompts import FIND, PromptEncoder
from reranker.storage.cache_folder import cache_folder
from reranker.training.loss import Objective

_VERSION = 1  # of what is learned: a skill of another version is learned anew
_RANK = 16
_RATE = 1e-3  # of a base of SmolLM2-135M's width; wider ones want less
_WIDTH = 576
_WARMUP = 5  # steps
LISTS = 2  # a step, over all workers
_ALONE = 8  # questions of a list where each needs a prompt of its own
_ENOUGH = 0.95  # of candidates found, in lists that were not trained on
_MOST = 300  # steps, where their number is automatic
_EVERY = 5  # steps between two looks at lists that are not trained on
_LOOKS = 4  # lists a look
_TRAINED, _HELD_OUT, _TITLES = range(3)  # what a random number is for
_WAIT_S = 1.0
_KNOBS = (
    "candidates", "label_style", "label_position", "prompt_order", "max_title_tokens", "max_prompt_tokens", "objective",
    "skill_steps",
)  # fmt: skip


def skill_key(config: TrialConfig, catalogue: Catalogue, base: PreTrainedModel) -> str:
    """Equal where the skill would be: of the base, the catalogue in its tokens, and the knobs of prompt and answer."""
    knobs = {name: getattr(config, name) for name in _KNOBS}
    titles = catalogue.fingerprint(config.max_title_tokens)
    settings = [_VERSION, _RANK, _RATE, _WARMUP, LISTS, _ALONE, _ENOUGH, _MOST, _EVERY, _LOOKS]
    told = json.dumps([settings, base_fingerprint(base), str(base.dtype), titles, knobs])
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def lesson_config(config: TrialConfig) -> TrialConfig:
    """The same with the adapter that the lesson trains, whatever a trial's own is."""
    lora = {"lora_rank": _RANK, "lora_alpha": 2 * _RANK, "lora_targets": "all_linear", "lora_dropout": 0.0}
    return config.model_copy(update={**lora, "gradient_checkpointing": False})


def kept_skill(key: str, learn: Callable[[], Skill], check: Callable[[], None], tell: Callable[[str], None]) -> Skill:
    """The skill of this key from the cache folder; learned by all workers together and kept there where it is not yet.

    Another group of workers that learns it is waited for. Where nothing can be kept the skill stays in these processes.
    """
    path = cache_folder() / "skills" / f"{key}.safetensors"
    first = worker_rank() == 0
    while True:
        with contextlib.ExitStack() as stack:
            turn = True
            if first:
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(FileLock(f"{path}.lock", timeout=0))
                except Timeout:
                    turn = False
                except (OSError, NotImplementedError):  # the latter of a file system without locks
                    pass
            known = of_first(Skill.read(path) if first else None)
            if known is not None:
                assert isinstance(known, Skill)
                return known
            if of_first(turn):
                made = learn()
                if first:
                    with contextlib.suppress(OSError):
                        made.write(path)
                return made
        tell("waiting for another trial, which teaches the base to name labels")
        time.sleep(_WAIT_S)
        check()


class FindLists:
    """Lists of random items that are asked for by their titles, which all differ; some titles are only looked at.

    Args:
        questions: of each list.
    """

    def __init__(self, catalogue: Catalogue, config: TrialConfig, questions: int) -> None:
        self._n, self._questions = config.candidates, questions
        _, items = np.unique(catalogue.titles(config.max_title_tokens).texts, return_index=True)
        self.titles = len(items)  # different ones
        items = items[shuffled(random_bits(_TITLES), len(items))[0]]
        aside = min(len(items) // 4, 200)
        aside = aside if aside >= self._n else 0
        self._items = {_HELD_OUT: items[:aside] if aside else items, _TRAINED: items[aside:]}

    def drawn(self, purpose: int, first: int, count: int) -> list[list[Example]]:
        """So many lists from the `first` on, each as the examples that ask for its candidates."""
        return [self._list(self._items[purpose], purpose, number) for number in range(first, first + count)]

    def _list(self, items: IntArray, purpose: int, number: int) -> list[Example]:
        chosen = items[shuffled(random_bits(purpose, number, 0), len(items))[0][: self._n]].tolist()
        asked = shuffled(random_bits(purpose, number, 1), self._n)[0][: self._questions].tolist()
        return [Example(NOBODY, (chosen[place],), tuple(chosen), place) for place in asked]


class SkillLesson:
    """One base, to be taught by all workers together, each of which takes some of a step's lists.

    Args:
        most_tokens: of a pass, with padding; None: as many as come.
        most_rows: examples of a pass; None: as many as come.
        check: called after each step on every worker; raises where the training is to end.
    """

    def __init__(
        self,
        config: TrialConfig,
        catalogue: Catalogue,
        device: torch.device,
        *,
        most_tokens: int | None,
        most_rows: int | None,
        tell: Callable[[str], None],
        check: Callable[[], None],
    ) -> None:
        self._config, self._device, self._tell, self._check = config, device, tell, check
        self._limits = Limits(most_tokens, most_rows)
        self._encoder = PromptEncoder(catalogue, config, FIND)
        self._shares = config.prompt_order == "candidates_first" and not self._encoder.tokenizes_whole_prompts
        questions = config.candidates if self._shares else min(_ALONE, config.candidates)
        self._lists = FindLists(catalogue, config, questions)
        self._objective = Objective(self._encoder, device)
        self._mixed = base_dtype(config, device) == torch.bfloat16
        self._uncorrected = np.zeros(len(catalogue.texts), np.float32)
        self.rows_of_pass = 1  # the last pass's examples

    def learn(self, base: PreTrainedModel) -> Skill:
        """What to add to the base; nothing where it needs no such lesson, or the catalogue can't give one."""
        began = time.perf_counter()
        n, titles, automatic = self._config.candidates, self._lists.titles, self._config.skill_steps == "auto"
        if keeps_own_skill(self._config):
            return Skill.none(f"{self._config.model} was made with a skill of its own")
        if titles < n:
            return Skill.none(f"no list of {n} different titles can be made, since there are {titles}")
        torch.manual_seed(0)
        model = attach_lora(base.to(self._device), lesson_config(self._config))
        fuse(model)
        try:
            before = self._look(model, 0)
            if automatic and before >= _ENOUGH:
                return Skill.none(f"untrained it finds {before:.0%} of candidates by their titles", found=before)
            steps, found = self._train(model, _MOST if automatic else int(self._config.skill_steps), automatic)
            seconds = time.perf_counter() - began
            return Skill.of(model, {"steps": steps, "seconds": seconds, "before": before, "found": found})
        finally:
            model.unload()

    def _train(self, model: PeftModel, most: int, automatic: bool) -> tuple[int, float]:
        """The steps that were made, and the share that is found after them."""
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
                found = self._look(model, step)
                if found >= _ENOUGH:
                    return step, found
        return most, self._look(model, most)

    def _step(self, model: PeftModel, parameters: list[torch.nn.Parameter], step: int) -> float:
        """Leave the clipped gradient of the mean loss; the share of the step's questions that is found."""
        model.train()
        count = workers() * math.ceil(LISTS / workers())
        lists = self._lists.drawn(_TRAINED, step * count, count)
        questions = sum(map(len, lists))
        right = torch.zeros((), device=self._device)
        for batch in self._passes(lists):
            with self._objective.answering(model, batch):
                logits = self._logits(model, batch)
                share = len(batch["targets"]) / questions
                torch.autograd.backward(share * self._objective.loss(logits, batch["targets"]))
            right += (self._objective.first(logits) == batch["targets"]).sum()
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        add_up([*(p.grad for p in parameters if p.grad is not None), right])
        torch.nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        return float(right) / questions

    @torch.no_grad()
    def _look(self, model: PeftModel, number: int) -> float:
        """The share that is found in lists of titles that are not trained on."""
        model.eval()
        lists = self._lists.drawn(_HELD_OUT, number * _LOOKS, _LOOKS)
        right = torch.zeros((), device=self._device)
        for batch in self._passes(lists):
            with self._objective.answering(model, batch):
                right += (self._objective.first(self._logits(model, batch)) == batch["targets"]).sum()
        add_up([right])
        return float(right) / sum(map(len, lists))

    def _passes(self, lists: list[list[Example]]) -> Iterator[Pass]:
        """Of this worker's share of them, on its device."""
        mine = lists[worker_rank() :: workers()]
        passes: Iterator[Pass] = iter(())
        if self._shares and mine:
            prompts = [self._encoder.encode_shared(some) for some in mine]
            passes = shared_passes(self._encoder, mine, prompts, self._limits, self._uncorrected)
        elif mine:
            passes = plain_passes(self._encoder, self._encoder.encode([e for some in mine for e in some]), self._limits)
        for batch in passes:
            self.rows_of_pass = len(batch["targets"])
            yield on_device(batch, self._device)

    def _logits(self, model: PeftModel, batch: Pass) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._mixed):
            return self._objective.logits(model, batch)
