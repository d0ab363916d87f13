"""The list positions of a step → this worker's share of its examples, drawn anew each epoch, in forward passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import NOBODY, Example
from reranker.data.hash_random import random_bits, shuffled, uniform
from reranker.errors import Fault, InputError
from reranker.modeling.process_group import worker_rank, workers
from reranker.prompting.forward_passes import Limits, Pass, plain_passes, pointwise_passes, shared_passes
from reranker.prompting.pointwise_prompts import Encoder, PointwiseEncoder, PointwisePrompt
from reranker.prompting.prompts import FIND, Prompt, PromptEncoder
from reranker.training.batch_plan import share_of_step


@dataclass(frozen=True)
class Counts:
    """What one worker has trained.

    Attributes:
        tokens, places: of the passes, without and with padding.
        cut_prompts: prompts that lost history or title text to fit.
        history_due: history items that the prompts should show, at most `history_length` each.
        history_dropped: those that did not fit.
        largest_pass: in examples.
    """

    examples: int = 0
    tokens: int = 0
    places: int = 0
    cut_prompts: int = 0
    history_due: int = 0
    history_dropped: int = 0
    largest_pass: int = 0

    def __add__(self, other: Counts) -> Counts:
        added = {name: value + getattr(other, name) for name, value in vars(self).items()}
        return Counts(**{**added, "largest_pass": max(self.largest_pass, other.largest_pass)})


class PassCollator(TrainerCallback):  # type: ignore[misc]
    """Collates positions of lists into passes of this epoch's examples; draws new lists when an epoch begins.

    Args:
        together: most examples per list.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: RerankingData,
        encoder: Encoder,
        limits: Limits,
        together: int = 1,
    ) -> None:
        self.config, self.data, self.encoder = config, data, encoder
        self._limits, self._together = limits, together
        self._finder = PromptEncoder(encoder.catalogue, config, FIND) if config.skill_mix else None
        self._epoch = 0
        self.lists = self._drawn(epoch=0)
        if not self.lists:
            raise InputError([Fault("no user has a history to train on", field="training_users")])
        self._correction: Any = self._corrected(epoch=0)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the lists of the new epoch."""
        self._epoch = state.global_step // (state.max_steps // state.num_train_epochs)
        self.lists = self._drawn(self._epoch)
        self._correction = self._corrected(self._epoch)

    def _corrected(self, epoch: int) -> Any:
        """What is added to each item's logit in shared lists, [items]; None without them."""
        if self._together == 1:
            return None
        return self.data.list_correction(self.config, self._together, epoch) * self.config.list_correction

    def _drawn(self, epoch: int) -> Sequence[Sequence[Example]]:
        if self._together > 1:
            return self.data.shared_examples(self.config, epoch, self._together)
        return [[example] for example in self.data.training_examples(self.config, epoch)]

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """This worker's examples of a step: `passes`, and `counts` of them.

        They are counted where the step is trained, since the data loader is a step ahead. A worker without any gets
        passes of one list all the same, since all must train together, and no counts: they are to weigh nothing.
        """
        own = share_of_step(rows, worker_rank(), workers())
        if own:
            return self._collated(own)
        return {**self._collated(rows[:1]), "counts": Counts()}

    def _collated(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        lists = [self.lists[row["position"]] for row in rows]
        examples = [example for group in lists for example in group]
        if isinstance(self.encoder, PointwiseEncoder):
            alone = self.encoder.encode(examples)
            passes = list(pointwise_passes(self.encoder, examples, alone, self._limits))
            return self._counted(examples, alone, passes)
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
        return self._counted(examples, prompts, passes)

    def _counted(
        self, examples: Sequence[Example], prompts: Sequence[Prompt | PointwisePrompt], passes: list[Pass]
    ) -> dict[str, Any]:
        real = [_real(batch) for batch in passes]
        counts = Counts(
            examples=len(examples),
            tokens=sum(int(mask.sum()) for mask in real),
            places=sum(mask.numel() for mask in real),
            cut_prompts=sum(1 for p in prompts if p.history_dropped or p.title_tokens),
            history_due=sum(min(len(e.history), self.config.history_length) for e in examples),
            history_dropped=sum(p.history_dropped for p in prompts),
            largest_pass=max(len(batch["targets"]) for batch in passes),
        )
        return {"passes": passes, "counts": counts}

    def _find(self, examples: Sequence[Example], number: int) -> list[Example]:
        """Questions for some of a list's candidates by title, on average a share `skill_mix` of all questions."""
        if self._finder is None:
            return []
        mix, candidates = self.config.skill_mix, examples[0].candidates
        key = random_bits(self.config.seed, self._epoch, number)
        due = len(examples) * mix / (1 - mix) + uniform(key)[0]
        places = shuffled(key, len(candidates))[0][: int(due)].tolist()
        return [Example(NOBODY, (candidates[place],), candidates, place) for place in places]


def _real(batch: Pass) -> Tensor:
    """Where a pass has tokens and no padding."""
    in_layout: Tensor | None = batch["layout"]["real"] if "layout" in batch else None
    return torch.arange(batch["input_ids"].shape[1]) <= batch["ends"][:, None] if in_layout is None else in_layout
