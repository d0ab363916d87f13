"""A DataConfig → the data that trials train on and are scored on, the same for all trials of a study."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reranker.config import DataConfig, DemoData, NegativesMix, TrialConfig
from reranker.data import sources
from reranker.data.baseline_ranks import COLLABORATIVE, baseline_ranks
from reranker.data.candidate_lists import CandidateSampler, training_prefixes
from reranker.data.collaborative import HISTORY, CollaborativeScores, ItemCounts, TitleScores
from reranker.data.example import MISSING, Evaluated, Example, Part
from reranker.data.interactions import Interactions, Split, split
from reranker.data.sources import demo
from reranker.metrics import Ranks, ranks_of_target

_FITTED_ON = 3  # latest examples of each user
_FITTED_USERS = 5_000


@dataclass(frozen=True, eq=False)
class RerankingData:
    """Interactions, their split, and the sampler that draws lists from them.

    Attributes:
        validates: whether there are validation lists; a refit trains on the validation items instead.
    """

    config: DataConfig
    interactions: Interactions
    split: Split
    sampler: CandidateSampler
    validates: bool = True
    _fitted: dict[tuple[Evaluated, int], CollaborativeScores] = field(default_factory=dict)
    _title_scores: dict[int, TitleScores] = field(default_factory=dict)

    @staticmethod
    def prepare(config: DataConfig) -> RerankingData:
        """Read, filter and split the data.

        Raises:
            InputError: the files break rules, nothing is left after the filters, or there are too many items for the
                retriever.
            EnvironmentFault: a file is missing or cannot be fetched.
        """
        interactions = sources.load(config)
        return RerankingData._of(config, interactions, split(interactions))

    @staticmethod
    def _of(config: DataConfig, interactions: Interactions, parts: Split) -> RerankingData:
        return RerankingData(config, interactions, parts, CandidateSampler(interactions, parts, config.retriever))

    def sealed(self) -> RerankingData:
        """The same data without the test items: no sequence holds them, and no test list can be made.

        Training and validation lists do not change: the set of touched (user, item) pairs, which negatives avoid, is
        the only thing that still includes the test items.
        """
        if self.split.is_sealed:
            return self
        return RerankingData._of(self.config, self.interactions.sealed(), self.split.sealed())

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        """The lists of one epoch (counted from 0). Epochs differ in their prefixes, negatives and order."""
        examples = self.sampler.training_examples(config, self._prefixes(config, epoch), epoch)
        return self._with_collaborative(examples, config, "train")

    def shared_examples(self, config: TrialConfig, epoch: int, together: int) -> list[list[Example]]:
        """The examples of one epoch, up to `together` per list; see `CandidateSampler.shared_examples`."""
        lists = self.sampler.shared_examples(config, self._prefixes(config, epoch), epoch, together)
        scored = iter(self._with_collaborative([example for group in lists for example in group], config, "train"))
        return [[next(scored) for _ in group] for group in lists]

    def list_correction(self, config: TrialConfig, together: int) -> NDArray[np.float32]:
        """What to add to each item's logit in shared lists, [items]; see `CandidateSampler.list_correction`."""
        prefixes = training_prefixes(self.split, None, self.config.training_users, self.config.seed)
        return self.sampler.list_correction(config, prefixes, together)

    def count_examples(self, config: TrialConfig) -> int:
        """How many training examples an epoch has."""
        return len(self._prefixes(config, epoch=0))

    def _prefixes(self, config: TrialConfig, epoch: int) -> NDArray[np.int64]:
        users, seed = self.config.training_users, self.config.seed
        return training_prefixes(self.split, config.examples_per_user, users, seed, epoch)

    def validation(self, config: TrialConfig) -> list[Example]:
        """The lists that the search uses; of the configuration, `candidates` and `collaborative_scores` matter."""
        if not self.validates:
            return []
        return self._with_collaborative(self._evaluation("validation", config.candidates), config, "validation")

    def test(self, config: TrialConfig) -> list[Example]:
        """The lists for scoring the winner at the end, of the same users and made in the same way.

        Raises:
            SealedError: these data are sealed.
        """
        return self._with_collaborative(self._evaluation("test", config.candidates), config, "test")

    def baselines(self, config: TrialConfig, part: Literal["validation", "test"]) -> dict[str, Ranks]:
        """Ranks of every baseline on the part's lists; on retrieved lists also of `retriever`, their own order.

        See `reranker.data.baseline_ranks`. A list that lacks its target is a miss for every baseline.
        """
        lists = self._evaluation(part, config.candidates)
        ranks = baseline_ranks(self.interactions, self.split, lists, part)
        targets, candidates = np.array([e.target for e in lists]), np.array([e.candidates for e in lists])
        scores = self._collaborative(part, config.candidates).scores([e.history for e in lists], candidates)
        ranks[COLLABORATIVE] = ranks_of_target(scores, targets)
        if self.config.candidate_mode == "retrieval":
            targets = np.array([example.target for example in self._retrieved(part, config.candidates, "retriever")])
            best_first = np.broadcast_to(-np.arange(config.candidates), (len(targets), config.candidates))
            ranks["retriever"] = ranks_of_target(best_first, targets)
        return ranks

    def ceiling(self, config: TrialConfig) -> float | None:
        """The share of validation lists that hold their target, a limit for every metric; None unless retrieved."""
        if self.config.candidate_mode == "ground_truth":
            return None
        return float(np.mean([example.target != MISSING for example in self.validation(config)]))

    def refit(self) -> RerankingData:
        """The same data with each user's validation item at the end of the training sequence, and no validation.

        The test item stays held out, and the leak guard still refuses it.
        """
        parts = replace(self.split, train=self.split.before("test"), validation=self.split.validation[:0])
        return replace(RerankingData._of(self.config, self.interactions, parts), validates=False)

    def best_reachable(self, config: TrialConfig) -> float | None:
        """Expected Recall@1 on the validation lists of a ranker that knows the demo's rule.

        None for real data, and for lists that reveal something about their target: those retrieved or with popular
        negatives.
        """
        uniform = self.config.candidate_mode == "ground_truth" and self.config.evaluation_negatives == "uniform"
        if not isinstance(self.config, DemoData) or not uniform:
            return None
        return demo.best_reachable(self.interactions.item_ids, self.validation(config))

    def describe(self, config: TrialConfig) -> str:
        """What was read, what the filters removed, and what is trained and scored on, one line each."""
        kept, total = self.interactions, len(self.interactions.touched)
        training, validation = self._prefixes(config, epoch=0), self.validation(config)
        lines = [
            f"data: {self.config.source}, {len(kept.user_ids)} users, {len(kept.item_ids)} items, {total} interactions",
            f"  fingerprint {kept.fingerprint[:12]}",
            *(f"  left out by {removal}" for removal in kept.removed if removal.rows or removal.items),
            f"  {len(training)} training examples an epoch, {len(validation)} lists of {config.candidates} to score",
        ]
        if (ceiling := self.ceiling(config)) is not None:
            order = "in its order" if self.config.candidate_order == "retriever" else "in a shuffled order"
            lines += [
                f"  these are what {self.config.retriever}, fitted on the training part, retrieves, {order}",
                f"  hit@{config.candidates}: {ceiling:.3f} of the lists hold their target, the others are misses",
            ]
        best = self.best_reachable(config)
        return "\n".join(lines if best is None else [*lines, f"  best reachable Recall@1: {best:.3f}"])

    def title_scores(self, config: TrialConfig) -> TitleScores | None:
        """What a trained adapter takes along to add to its scores; None if the configuration adds nothing."""
        if not self.adds_collaborative(config):
            return None
        n, texts = config.candidates, tuple(self.interactions.item_texts)
        return self._title_scores.setdefault(n, TitleScores(self._collaborative("validation", n), texts))

    def adds_collaborative(self, config: TrialConfig) -> bool:
        """Whether the collaborative scores are added; the demo shows what a model learns by itself."""
        if config.collaborative_scores == "auto":
            return not isinstance(self.config, DemoData)
        return config.collaborative_scores == "counts"

    def _with_collaborative(self, examples: list[Example], config: TrialConfig, part: Part) -> list[Example]:
        if not examples or not self.adds_collaborative(config):
            return examples
        own = None
        if part == "train":
            own = np.zeros((len(examples), config.candidates), dtype=np.int64)
            own[np.arange(len(examples)), [example.target for example in examples]] = 1
        candidates = np.array([example.candidates for example in examples])
        fitted = self._collaborative("test" if part == "test" else "validation", config.candidates)
        scores = fitted.scores([example.history for example in examples], candidates, own).astype(np.float32)
        return [replace(e, collaborative=tuple(row)) for e, row in zip(examples, scores.tolist(), strict=True)]

    def _collaborative(self, part: Evaluated, n: int) -> CollaborativeScores:
        """Counted in everything before the part, and weighed on training lists with negatives like the part's."""
        if (part, n) not in self._fitted:
            negatives = NegativesMix()
            if self.config.candidate_mode == "retrieval":
                negatives = NegativesMix(uniform=0.0, retriever=1.0)
            elif self.config.evaluation_negatives == "popularity":
                negatives = NegativesMix(uniform=0.0, popularity=1.0)
            config = TrialConfig(
                candidates=n,
                label_style="numbers",  # of which there is one for each candidate of the longest list
                negatives=negatives,
                history_length=HISTORY,
                seed=self.config.seed,
            )
            prefixes = training_prefixes(self.split, _FITTED_ON, _FITTED_USERS, self.config.seed)
            lists = self.sampler.training_examples(config, prefixes, epoch=0)
            self._fitted[part, n] = CollaborativeScores.fitted(
                ItemCounts.of(self.split.before(part), len(self.interactions.item_ids)),
                [example.history for example in lists],
                np.array([example.candidates for example in lists], dtype=np.int64).reshape(-1, n),
                np.array([example.target for example in lists], dtype=np.int64),
            )
        return self._fitted[part, n]

    def _evaluation(self, part: Literal["validation", "test"], n: int) -> list[Example]:
        if self.config.candidate_mode == "retrieval":
            return self._retrieved(part, n, self.config.candidate_order)
        return self.sampler.evaluation_examples(
            part,
            n=n,
            negatives=self.config.evaluation_negatives,
            users=self.config.evaluation_users,
            seed=self.config.seed,
        )

    def _retrieved(
        self, part: Literal["validation", "test"], n: int, order: Literal["shuffled", "retriever"]
    ) -> list[Example]:
        return self.sampler.retrieved_examples(
            part, n=n, order=order, users=self.config.evaluation_users, seed=self.config.seed
        )
