"""A DataConfig → the data that trials train on and are scored on, the same for all trials of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reranker.config import ImageMode, NegativesMix, TrialConfig
from reranker.data import sources
from reranker.data.baselines.baseline_plan import BaselinePlan
from reranker.data.baselines.baseline_ranks import COLLABORATIVE, POINTWISE, Baselines, ask_pointwise, baseline_ranks
from reranker.data.candidates.candidate_lists import CandidateSampler, training_prefixes
from reranker.data.candidates.history_dropout import without_some_history
from reranker.data.example import MISSING, Evaluated, Example, Part
from reranker.data.interactions import Interactions
from reranker.data.recommenders.catalogue_lists import CatalogueLists
from reranker.data.recommenders.collaborative_scores import HISTORY, CollaborativeScores, ItemCounts, Own, TitleScores
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.sources import demo
from reranker.data.split import Split, split
from reranker.data.teachers.teacher import Calibrated, CrossFitted, Teacher, taught
from reranker.data.teachers.teacher_file import TeacherFile
from reranker.data_config import AmazonData, DataConfig, DemoData
from reranker.errors import Fault, InputError
from reranker.metrics import Ranks, ranks_of_target

_FITTED_ON = 3  # latest examples of each user
_FITTED_USERS = 5_000


@dataclass(frozen=True, eq=False)
class RerankingData:
    """Interactions, their split, and the sampler that draws lists from them.

    Attributes:
        validates: whether there are validation lists; a refit trains on the validation items instead.
        captions: of the items' images, once `reranker.modeling.images.captions` has made them; else empty.
        teacher_file: what `teacher: file` is, if the data have one.
    """

    config: DataConfig
    interactions: Interactions
    split: Split
    sampler: CandidateSampler
    validates: bool = True
    captions: list[str] = field(default_factory=list)
    teacher_file: TeacherFile | None = None
    _fitted: dict[tuple[Evaluated, int], CollaborativeScores] = field(default_factory=dict)
    _title_scores: dict[tuple[int, ImageMode], TitleScores] = field(default_factory=dict)
    _teachers: dict[str, Teacher] = field(default_factory=dict)
    _calibrated: dict[tuple[str, int, int], Calibrated] = field(default_factory=dict)

    @staticmethod
    def prepare(config: DataConfig, imageless: Collection[str] = ()) -> RerankingData:
        """Read, filter and split the data.

        Args:
            imageless: ids of items that shall have no image, even if they have one by now; see the attribute of that name.

        Raises:
            InputError: the files break rules, nothing is left after the filters, a split by time leaves too little in
                a period, or there are too many items for the retriever.
            EnvironmentFault: a file is missing or cannot be fetched.
        """
        interactions = sources.load(config).without_images(imageless, config)
        data = RerankingData._of(config, interactions, split(interactions, config.targets_per_user))
        if config.teacher_scores is None:
            return data
        users = np.unique(training_prefixes(data.split, None, config.training_users, config.seed)[:, 0])
        return replace(data, teacher_file=TeacherFile.read(config.teacher_scores, interactions, users))

    @staticmethod
    def _of(config: DataConfig, interactions: Interactions, parts: Split) -> RerankingData:
        sampler = CandidateSampler(interactions, parts, config.retriever, config.dense_model)
        return RerankingData(config, interactions, parts, sampler)

    @property
    def imageless(self) -> list[str]:
        """Ids of the items whose image could not be had. A study keeps them: an address may answer some other day."""
        images = self.interactions.images
        return [] if images is None else [self.interactions.item_ids[item] for item in images.not_had]

    def sealed(self) -> RerankingData:
        """The same data without the test items: no sequence holds them, and no test list can be made.

        Training and validation lists do not change: the set of touched (user, item) pairs, which negatives avoid, is
        the only thing that still includes the test items.
        """
        if self.split.is_sealed:
            return self
        interactions = self.interactions.sealed()
        sealed = RerankingData._of(self.config, interactions, split(interactions, self.config.targets_per_user))
        return replace(sealed, captions=self.captions, teacher_file=self.teacher_file)

    def training_examples(self, config: TrialConfig, epoch: int) -> list[Example]:
        """The lists of one epoch (counted from 0). Epochs differ in their prefixes, negatives and order."""
        examples = self.sampler.training_examples(_in_epoch(config, epoch), self._prefixes(config, epoch), epoch)
        return self._as_trained(examples, config, epoch)

    def shared_examples(self, config: TrialConfig, epoch: int, together: int) -> list[list[Example]]:
        """The examples of one epoch, up to `together` per list; see `CandidateSampler.shared_examples`."""
        prefixes = self._prefixes(config, epoch)
        lists = self.sampler.shared_examples(_in_epoch(config, epoch), prefixes, epoch, together)
        examples = [example for group in lists for example in group]
        trained = iter(self._as_trained(examples, config, epoch))
        return [[next(trained) for _ in group] for group in lists]

    def list_correction(self, config: TrialConfig, together: int, epoch: int = 0) -> NDArray[np.float32]:
        """What to add to each item's logit in shared lists, [items]; see `CandidateSampler.list_correction`."""
        prefixes = training_prefixes(self.split, None, self.config.training_users, self.config.seed)
        taken = self._prefixes(config, epoch)
        return self.sampler.list_correction(_in_epoch(config, epoch), prefixes, together, taken, epoch)

    def count_examples(self, config: TrialConfig) -> int:
        """How many training examples an epoch has."""
        return len(self._prefixes(config, epoch=0))

    def _prefixes(self, config: TrialConfig, epoch: int) -> NDArray[np.int64]:
        users, seed = self.config.training_users, self.config.seed
        return training_prefixes(self.split, config.examples_per_user, users, seed, epoch, config.positives)

    def validation(self, config: TrialConfig) -> list[Example]:
        """The lists that the search uses; of the configuration, `candidates` and `collaborative_scores` matter."""
        if not self.validates:
            return []
        return self._with_collaborative(self._evaluation("validation", config.candidates), config, "validation")

    def test(self, config: TrialConfig) -> list[Example]:
        """The lists for scoring the winner at the end, of the same users or of `test_users`, made in the same way.

        Raises:
            SealedError: these data are sealed.
        """
        return self._with_collaborative(self._evaluation("test", config.candidates), config, "test")

    def baselines(
        self,
        config: TrialConfig,
        part: Evaluated,
        plan: BaselinePlan | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> Baselines:
        """The planned baselines on the part's lists, and on retrieved lists also `retriever`, their own order.

        See `reranker.data.baselines.baseline_ranks`. A list that lacks its target is a miss for every baseline. In a full
        evaluation baselines rank the whole catalogue; the collaborative scores and `pointwise` rerank the lists, as a
        model does.

        Args:
            plan: None for those that take seconds.
            say: receives the progress of those that take long.
        """
        plan = plan or BaselinePlan()
        examples, items = self._evaluation(part, config.candidates), len(self.interactions.item_ids)
        lists = RankedLists.of(examples)
        whole = CatalogueLists.in_catalogue(self.split, items, examples, part) if self.is_full else lists
        dense_model, seed = self.config.dense_model, self.config.seed
        baselines = baseline_ranks(
            self.interactions, self.split, whole, part, plan, dense_model=dense_model, seed=seed, say=say
        )
        if COLLABORATIVE in plan.names:
            scores = self._collaborative(part, config.candidates).scores(lists.histories, lists.candidates)
            baselines.ranks[COLLABORATIVE] = ranks_of_target(scores, lists.targets, [e.behind for e in examples])
        if POINTWISE in plan.names:
            texts, model = self.interactions.item_texts, self.config.pointwise_model
            ask_pointwise(baselines, model, texts, lists, [e.behind for e in examples], plan, say)
        if self.config.candidate_mode == "retrieval":
            ordered = self._retrieved(part, config.candidates, "retriever")
            greater = np.array([e.behind if e.target == MISSING else e.target for e in ordered], dtype=np.int64)
            baselines.ranks["retriever"] = Ranks(greater, np.zeros_like(greater))
        return baselines

    @property
    def is_full(self) -> bool:
        """Whether targets are ranked in the whole catalogue."""
        return self.config.evaluation == "full"

    def ceiling(self, config: TrialConfig) -> float | None:
        """The share of validation lists that hold their target, a limit for every metric; None unless retrieved."""
        if self.config.candidate_mode == "ground_truth":
            return None
        return float(np.mean([example.target != MISSING for example in self.validation(config)]))

    def refit(self) -> RerankingData:
        """The same data with each user's validation items at the end of the training sequence, and no validation.

        Test items stay held out, and the leak guard still refuses them.
        """
        longer = RerankingData._of(self.config, self.interactions, self.split.refit())
        return replace(longer, validates=False, captions=self.captions, teacher_file=self.teacher_file)

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
            *self._describe_periods(),
            *self._describe_doubts(),
            *([] if kept.images is None else [f"  {kept.images.note}"]),
            f"  {len(training)} training examples an epoch, {len(validation)} lists of {config.candidates} to score",
        ]
        if (ceiling := self.ceiling(config)) is not None:
            others = "the others are misses"
            if self.config.evaluation == "full":
                others = "in the others it stands where the retriever puts it: ranks are of the whole catalogue"
            order = "in its order" if self.config.candidate_order == "retriever" else "in a shuffled order"
            lines += [
                f"  these are what {self.config.retriever}, fitted on the training part, retrieves, {order}",
                f"  hit@{config.candidates}: {ceiling:.3f} of the lists hold their target, {others}",
            ]
        if self.teacher_file is not None:
            share = self.share_taught(config.candidates)
            lines += [f"  {self.teacher_file}", f"  it compares candidates of {share:.0%} of the training lists"]
        best = self.best_reachable(config)
        return "\n".join(lines if best is None else [*lines, f"  best reachable Recall@1: {best:.3f}"])

    def _describe_periods(self) -> list[str]:
        """How a split by time divides the data; empty without one."""
        if (periods := self.interactions.periods) is None:
            return []
        train, held_out = self.split.train, self.split.validation
        is_known = self.split.known("train", len(self.interactions.item_ids))
        users, cold = sum(len(sequence) > 0 for sequence in train), np.count_nonzero(~is_known[held_out.items])
        found_by = f"{len(held_out)} items to find, of {len(np.unique(held_out.users))} users, validate"
        return [
            f"  split by time: {periods}",
            f"  {sum(map(len, train))} interactions of {users} users and {is_known.sum()} items train",
            f"  {found_by}; {cold} of them are cold: nobody touched them in training",
        ]

    def _describe_doubts(self) -> list[str]:
        """What the data do not tell: which of a user's last items came last, and which of two items a title names."""
        kept, lines = self.interactions, []
        if tied := kept.tied_users:
            users = f"{tied} of {len(kept.user_ids)} users"
            lines.append(f"  the last items of {users} share a timestamp: data.seed decides which is the test item")
        if same := sum(count for count in Counter(kept.item_texts).values() if count > 1):
            lines.append(f"  {same} of {len(kept.item_texts)} items share their text: no model can tell them apart")
        return lines

    def item_texts(self, config: TrialConfig) -> list[str]:
        """What the model reads of each item; with image_mode: caption the captions must be there."""
        kept = self.interactions
        if config.image_mode != "caption":
            return kept.item_texts
        assert kept.captioned is not None
        return kept.captioned.filled(self.captions)

    def check_images(self, mode: ImageMode) -> None:
        """
        Raises:
            InputError: the data have no images, or nothing that describes them, and the mode needs it.
        """
        images = self.interactions.images
        if mode != "text" and images is None:
            rule = f"{mode} needs images of the items"
            hint = "data: {source: tables, images: {column: …}} names the column that has their paths"
            if isinstance(self.config, AmazonData):
                hint = "data.images: {fetch: true} gets those whose addresses the metadata have"
            raise InputError([Fault(rule, field="image_mode", value=mode, hint=hint)])
        if mode == "caption" and (images is None or images.caption_model is None):
            rule = "caption needs a model that describes images"
            hint = "data.images.caption_model, such as Salesforce/blip-image-captioning-base"
            raise InputError([Fault(rule, field="image_mode", value=mode, hint=hint)])

    def title_scores(self, config: TrialConfig) -> TitleScores | None:
        """What a trained adapter takes along to add to its scores; None if the configuration adds nothing."""
        if not self.adds_collaborative(config):
            return None
        n, texts = config.candidates, tuple(self.item_texts(config))
        key = n, config.image_mode
        return self._title_scores.setdefault(key, TitleScores(self._collaborative("validation", n), texts))

    def adds_collaborative(self, config: TrialConfig) -> bool:
        """Whether the collaborative scores are added; the demo shows what a model learns by itself."""
        if config.collaborative_scores == "auto":
            return not isinstance(self.config, DemoData)
        return config.collaborative_scores == "counts"

    def _as_trained(self, examples: list[Example], config: TrialConfig, epoch: int) -> list[Example]:
        """With what is known of each list by whole histories, and then without what the model does not get to see."""
        known = self._with_teacher(self._with_collaborative(examples, config, "train"), config)
        if not config.history_dropout:
            return known
        return without_some_history(known, config.history_dropout, config.seed, epoch)

    def _with_collaborative(self, examples: list[Example], config: TrialConfig, part: Part) -> list[Example]:
        if not examples or not self.adds_collaborative(config):
            return examples
        scores = self._scored(examples, config, part)
        return [replace(e, collaborative=tuple(row)) for e, row in zip(examples, scores.tolist(), strict=True)]

    def _scored(self, examples: list[Example], config: TrialConfig, part: Part) -> NDArray[np.float32]:
        """Collaborative scores of the examples, [examples, candidates]."""
        candidates = np.array([example.candidates for example in examples])
        fitted = self._collaborative("test" if part == "test" else "validation", config.candidates)
        own = Own.of(examples, self.split.train, fitted.item_counts.latest) if part == "train" else None
        return fitted.scores([example.history for example in examples], candidates, own).astype(np.float32)

    def _with_teacher(self, examples: list[Example], config: TrialConfig) -> list[Example]:
        if not examples or config.teacher == "none":
            return examples
        if config.teacher == "collaborative":
            scored = self._scored(examples, config, "train")
            return [replace(e, teacher=tuple(row)) for e, row in zip(examples, scored.tolist(), strict=True)]
        return taught(examples, self._teacher(config.teacher, config.candidates, config.history_length))

    def _teacher(self, name: str, n: int, history_length: int) -> Teacher:
        """Fitted on the training part, with probabilities that are right on training lists like those of validation, whose
        histories are as long as those that it is asked for: more items have larger sums."""
        if name not in self._teachers:
            teacher: Teacher | None = self.teacher_file
            if name != "file":
                items = len(self.interactions.item_ids)
                teacher = CrossFitted.fitted(name, self.split.train, items, on_known=self.split.by_time)
            if teacher is None:
                raise InputError([Fault("file needs data.teacher_scores", field="teacher", value=name)])
            self._teachers[name] = teacher
        key = name, n, max(history_length, HISTORY)
        if key not in self._calibrated:
            self._calibrated[key] = Calibrated.on(self._teachers[name], self._fitting_lists(n, history_length))
        return self._calibrated[key]

    def share_taught(self, n: int) -> float:
        """Of training lists of n like those of validation, in which the teacher's file scores two candidates or more."""
        assert self.teacher_file is not None
        scores = self.teacher_file.scores(self._fitting_lists(n))
        return float(np.mean(np.isfinite(scores).sum(axis=1) > 1))

    def _collaborative(self, part: Evaluated, n: int) -> CollaborativeScores:
        """Counted in everything before the part, and weighed on training lists with negatives like the part's."""
        if (part, n) not in self._fitted:
            lists, sequences = self._fitting_lists(n), self.split.before(part)
            counted = ItemCounts.of(sequences, len(self.interactions.item_ids))
            self._fitted[part, n] = CollaborativeScores.fitted(
                counted,
                [example.history for example in lists],
                np.array([example.candidates for example in lists], dtype=np.int64).reshape(-1, n),
                np.array([example.target for example in lists], dtype=np.int64),
                Own.of(lists, sequences, counted.latest),
            )
        return self._fitted[part, n]

    def _fitting_lists(self, n: int, history_length: int = HISTORY) -> list[Example]:
        """Training lists of n with negatives like those of validation."""
        negatives = NegativesMix()
        if self.config.candidate_mode == "retrieval":
            negatives = NegativesMix(uniform=0.0, retriever=1.0)
        elif self.config.evaluation_negatives == "popularity":
            negatives = NegativesMix(uniform=0.0, popularity=1.0)
        config = TrialConfig(
            candidates=n,
            label_style="numbers",  # of which there is one for each candidate of the longest list
            negatives=negatives,
            history_length=history_length,
            seed=self.config.seed,
        )
        prefixes = training_prefixes(self.split, _FITTED_ON, _FITTED_USERS, self.config.seed)
        return self.sampler.training_examples(config, prefixes, epoch=0)

    def _evaluation(self, part: Literal["validation", "test"], n: int) -> list[Example]:
        if self.config.candidate_mode == "retrieval":
            return self._retrieved(part, n, self.config.candidate_order)
        return self.sampler.evaluation_examples(
            part,
            n=n,
            negatives=self.config.evaluation_negatives,
            users=self._scored_users(part),
            seed=self.config.seed,
        )

    def _scored_users(self, part: Evaluated) -> int | None:
        """How many users' lists the part holds; None: all users'."""
        if part == "test" and self.config.test_users is not None:
            return self.config.test_users
        return self.config.evaluation_users

    def _retrieved(
        self, part: Literal["validation", "test"], n: int, order: Literal["shuffled", "retriever"]
    ) -> list[Example]:
        return self.sampler.retrieved_examples(
            part,
            n=n,
            order=order,
            users=self._scored_users(part),
            seed=self.config.seed,
            whole_catalogue=self.config.evaluation == "full",
        )


def _in_epoch(config: TrialConfig, epoch: int) -> TrialConfig:
    """The configuration with as many candidates as the epoch's training lists have."""
    if config.first_candidates is None:
        return config
    return config.model_copy(update={"candidates": config.candidates_in(epoch)})
