"""The list positions of a step → its examples, drawn anew each epoch, in forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import NOBODY, Example
from reranker.errors import Fault, InputError
from reranker.hash_random import random_bits, shuffled, uniform
from reranker.prompting.forward_passes import Limits, Pass, plain_passes, shared_passes
from reranker.prompting.prompts import FIND, PromptEncoder


class PassCollator(TrainerCallback):  # type: ignore[misc]
    """Collates positions of lists into passes of this epoch's examples; draws new lists when an epoch begins.

    Args:
        together: most examples per list.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: RerankingData,
        encoder: PromptEncoder,
        limits: Limits,
        together: int = 1,
    ) -> None:
        self.config, self.data, self.encoder = config, data, encoder
        self._limits, self._together = limits, together
        self._finder = PromptEncoder(encoder.catalogue, config, FIND) if config.skill_mix else None
        self._epoch = 0
        self.lists = self._drawn(epoch=0)
        self.seen = 0  # examples of this worker since the trial began
        self.tokens = 0  # tokens of their passes, without padding
        self.cut_prompts = 0  # prompts that lost history or title text to fit
        self.history_due = 0  # history items that they should show, at most `history_length` each
        self.history_dropped = 0  # those that did not fit
        self.largest_pass = 0  # in examples
        if not self.lists:
            raise InputError([Fault("no user has a history to train on", field="training_users")])
        self._correction: Any = None  # for shared lists, [items]
        if together > 1:
            self._correction = data.list_correction(config, together) * config.list_correction

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the lists of the new epoch."""
        self._epoch = round(state.epoch or 0)
        self.lists = self._drawn(self._epoch)

    def _drawn(self, epoch: int) -> Sequence[Sequence[Example]]:
        if self._together > 1:
            return self.data.shared_examples(self.config, epoch, self._together)
        return [[example] for example in self.data.training_examples(self.config, epoch)]

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, list[Pass]]:
        """The examples of a step, in passes."""
        lists = [self.lists[row["position"]] for row in rows]
        examples = [example for group in lists for example in group]
        list_questions = [self._find(group, row["position"]) for group, row in zip(lists, rows, strict=True)]
        if self._together > 1:
            shared = [self.encoder.encode_shared(group) for group in lists]
            prompts = [question for prompt in shared for question in prompt.questions]
            for number, questions in enumerate(list_questions):
                if questions and self._finder is not None:
                    extra = self._finder.encode_shared(questions)
                    if extra.listed == shared[number].listed:  # titles were not cut in just one of them
                        shared[number] = replace(shared[number], questions=shared[number].questions + extra.questions)
                        lists[number] = [*lists[number], *questions]
            passes = list(shared_passes(self.encoder, lists, shared, self._limits, self._correction))
        else:
            prompts = self.encoder.encode(examples)
            questions = [question for of_list in list_questions for question in of_list]
            extra_prompts = [] if self._finder is None else self._finder.encode(questions)
            passes = list(plain_passes(self.encoder, [*examples, *questions], prompts + extra_prompts, self._limits))
        self.largest_pass = max(self.largest_pass, *(len(batch["targets"]) for batch in passes))
        self.seen += len(examples)
        self.tokens += sum(_real_tokens(batch) for batch in passes)
        self.cut_prompts += sum(1 for p in prompts if p.history_dropped or p.title_tokens)
        self.history_due += sum(min(len(e.history), self.config.history_length) for e in examples)
        self.history_dropped += sum(p.history_dropped for p in prompts)
        return {"passes": passes}

    def _find(self, examples: Sequence[Example], number: int) -> list[Example]:
        """Questions for some of a list's candidates by title, on average a share `skill_mix` of all questions."""
        if self._finder is None:
            return []
        mix, candidates = self.config.skill_mix, examples[0].candidates
        key = random_bits(self.config.seed, self._epoch, number)
        due = len(examples) * mix / (1 - mix) + uniform(key)[0]
        places = shuffled(key, len(candidates))[0][: int(due)].tolist()
        return [Example(NOBODY, (candidates[place],), candidates, place) for place in places]


def _real_tokens(batch: Pass) -> int:
    real = batch["layout"]["real"] if "layout" in batch else batch["attention_mask"]
    return int(real.sum())
