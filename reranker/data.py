"""A DataConfig → everything that a trial is trained and scored on, the same for all trials of a study."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from reranker import datasets
from reranker.candidates import MISSING, CandidateSampler, Example, training_prefixes
from reranker.config import DataConfig, DemoData, TrialConfig
from reranker.datasets import demo
from reranker.interactions import Interactions, Split, split


@dataclass(frozen=True, eq=False)
class RerankingData:
    """Interactions, their split, and the sampler that draws lists from them.

    Attributes:
        validates: whether there are validation lists; a refit trains on their items instead.
    """

    config: DataConfig
    interactions: Interactions
    split: Split
    sampler: CandidateSampler
    validates: bool = True

    @staticmethod
    def prepare(config: DataConfig) -> RerankingData:
        """Read, filter and split.

        Raises:
            InputError: the files break rules, or nothing is left after the filters.
            EnvironmentFault: a file is missing or cannot be fetched.
        """
        interactions = datasets.load(config)
        parts = split(interactions)
        return RerankingData(config, interactions, parts, CandidateSampler(interactions, parts))

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        """The lists of one epoch (counted from 0), which differ from epoch to epoch in their negatives and order."""
        prefixes = training_prefixes(self.split, config.examples_per_user, self.config.training_users, self.config.seed)
        return self.sampler.training_examples(config, prefixes, epoch)

    def validation(self, config: TrialConfig) -> list[Example]:
        """The lists that the search looks at; of the configuration only `candidates` matters."""
        if not self.validates:
            return []
        return self.sampler.evaluation_examples(
            "validation",
            n=config.candidates,
            negatives=self.config.evaluation_negatives,
            users=self.config.evaluation_users,
            seed=self.config.seed,
        )

    def refit(self) -> RerankingData:
        """The same users, each one's validation item the last of the training sequence, and nothing to validate on.

        The test item stays held out, and the leak guard goes on to refuse it.
        """
        train = [
            np.append(sequence, item) for sequence, item in zip(self.split.train, self.split.validation, strict=True)
        ]
        parts = replace(self.split, train=train, validation=np.full_like(self.split.validation, MISSING))
        return replace(self, split=parts, sampler=CandidateSampler(self.interactions, parts), validates=False)

    def best_reachable(self, config: TrialConfig) -> float | None:
        """Expected Recall@1 on the validation lists of a ranker that knows the demo's rule.

        None for real data, and for popular negatives, with which the list itself tells about its target.
        """
        if not isinstance(self.config, DemoData) or self.config.evaluation_negatives != "uniform":
            return None
        return demo.best_reachable(self.interactions.item_ids, self.validation(config))

    def describe(self, config: TrialConfig) -> str:
        """What was read, what the filters took, and what is trained and scored on, a line each."""
        kept = self.interactions
        total = sum(len(sequence) for sequence in kept.sequences)
        training, validation = self.training_examples(config, epoch=0), self.validation(config)
        lines = [
            f"data: {self.config.source}, {len(kept.user_ids)} users, {len(kept.item_ids)} items, {total} interactions",
            f"  fingerprint {kept.fingerprint[:12]}",
            *(f"  left out by {removal}" for removal in kept.removed if removal.rows or removal.items),
            f"  {len(training)} training examples an epoch, {len(validation)} lists of {config.candidates} to score",
        ]
        best = self.best_reachable(config)
        return "\n".join(lines if best is None else [*lines, f"  best reachable Recall@1: {best:.3f}"])
