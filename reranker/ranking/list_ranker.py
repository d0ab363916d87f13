"""A history and candidates → the candidates in order, whatever it is that scores the prompts."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reranker.calibration import AS_SCORED, Adjustment
from reranker.config import LETTERS, TrialConfig, build_trial_config
from reranker.data.example import Example
from reranker.data.images.item_images import ItemImages, given_images, how_to_raise
from reranker.data.item_token_cache import EMPTY_TITLE, PassingTitles
from reranker.data.recommenders.collaborative_scores import TitleScores
from reranker.errors import Fault, InputError, RerankerError, TrainingError, json_kind
from reranker.evaluation.scoring import EncodedLists, FloatArray, at_places
from reranker.modeling.images.image_inputs import ImageInputs
from reranker.modeling.item_catalogue import image_inputs
from reranker.modeling.model_loading import load_tokenizer
from reranker.prompting.pointwise_prompts import Encoder, encoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Titles = Sequence[str]
Images = Sequence[str | None]  # paths of the titles' images; None for a title without one
Pictures = tuple[Images | None, Images | None]  # theirs; None: none has one


class Question(NamedTuple):
    """One list to rank.

    Attributes:
        history: titles, oldest first.
        candidates: titles, all different where there are no ids.
        candidate_ids: one for each candidate; they tell apart those with the same title, and the model knows nothing of
            them.
    """

    history: Titles
    candidates: Titles
    candidate_ids: Sequence[Any] | None = None


Asked = Question | tuple[Titles, Titles]


@dataclass(frozen=True)
class Ranking:
    """The answer for one list.

    Attributes:
        order: positions in the candidates as given, best first; ties stay in the order given.
        probabilities: that each candidate comes next, if one of them does, in the order given; they sum to 1. A
            temperature that was fitted on the validation lists makes them so sure as they are right.
        seconds: for tokenising and scoring; if several lists were ranked together, this list's share.
    """

    order: list[int]
    probabilities: list[float]
    seconds: float


class ListRanker(ABC):
    """Ranks titles, and their images if it was trained so, with prompts as its validation lists had them.

    Attributes:
        config: of the training; it sets the prompt, whatever the number of candidates.
        adjustment: what the validation lists told of its answers.
    """

    def __init__(
        self, config: TrialConfig, title_scores: TitleScores | None = None, adjustment: Adjustment = AS_SCORED
    ) -> None:
        self.config, self.adjustment = config, adjustment
        self._title_scores = title_scores
        self._titles = PassingTitles(load_tokenizer(config.model))
        self._images: ImageInputs | None = None
        if config.image_mode == "raw_image":
            self._images = image_inputs(config, self._titles.tokenizer, ItemImages((), (), (), ""))
        self._encoders: dict[tuple[int, int], Encoder] = {}
        self._alone = threading.Lock()  # scoring changes a model temporarily, and servers use several threads

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the base that the adapter was trained on."""
        return self._titles.tokenizer

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the model is, for people."""

    @property
    @abstractmethod
    def batch_lists(self) -> int:
        """How many lists it ranks best together."""

    @abstractmethod
    def _scored(self, lists: EncodedLists) -> FloatArray:
        """Log-probabilities among the labels, averaged over the orders, or log-odds of yes, [lists, candidates]."""

    def rank(
        self,
        history: Titles,
        candidates: Titles,
        permutations: int | None = None,
        *,
        candidate_ids: Sequence[Any] | None = None,
        history_images: Images | None = None,
        candidate_images: Images | None = None,
    ) -> Ranking:
        """Order the candidates by how probable each is to come next.

        Args:
            history: titles, oldest first.
            candidates: titles, all different where there are no ids.
            permutations: orders of the candidates to average over; None: as in validation.
            candidate_ids: one for each candidate, of a catalogue in which some items have the same title.
            history_images: of the history, for an adapter that was trained with image_mode: raw_image; a title without
                one is read as text.
            candidate_images: of the candidates, likewise.

        Raises:
            InputError: a title is not text; a list is empty, too long or has a candidate twice; an image does not open.
        """
        asked = Question(history, candidates, candidate_ids)
        return self.rank_many([asked], permutations, [(history_images, candidate_images)])[0]

    def rank_many(
        self,
        lists: Sequence[Asked],
        permutations: int | None = None,
        images: Sequence[Pictures] | None = None,
    ) -> list[Ranking]:
        """What `rank` gives for each (history, candidates) or `Question`, scored together.

        Raises:
            InputError: every fault of every list.
        """
        config, given = self._asked(permutations), images or [(None, None)] * len(lists)
        questions = [Question(*asked) for asked in lists]
        with self._alone:
            faults = [
                fault if len(lists) == 1 else replace(fault, file=f"list {number}")
                for number, faults in enumerate(self._faults_of_each(questions, given), start=1)
                for fault in faults
            ]
            if faults:
                raise InputError(faults)
            return self._rankings(questions, given, config)

    def rank_each(
        self,
        lists: Sequence[Asked],
        permutations: int | None = None,
        images: Sequence[Pictures] | None = None,
    ) -> list[Ranking | RerankerError]:
        """As `rank_many`, but a list that breaks a rule, or cannot be ranked, has that as its answer, and the others are
        ranked."""
        config, given = self._asked(permutations), images or [(None, None)] * len(lists)
        questions = [Question(*asked) for asked in lists]
        with self._alone:
            faults = self._faults_of_each(questions, given)
            sound = [i for i, of_list in enumerate(faults) if not of_list]
            rankings = iter(self._isolated([questions[i] for i in sound], [given[i] for i in sound], config))
        return [InputError(of_list) if of_list else next(rankings) for of_list in faults]

    def _isolated(
        self, lists: Sequence[Question], images: Sequence[Pictures], config: TrialConfig
    ) -> list[Ranking | RerankerError]:
        """All together; one by one where one of them cannot be ranked, such as a prompt that is too long."""
        try:
            return list(self._rankings(lists, images, config))
        except RerankerError as error:
            if len(lists) == 1:
                return [error]
            one_by_one = zip(lists, images, strict=True)
            return [answer for one, its_images in one_by_one for answer in self._isolated([one], [its_images], config)]

    def _faults_of_each(self, lists: Sequence[Question], images: Sequence[Pictures]) -> list[list[Fault]]:
        return [
            [*self._faults(question), *self._image_faults(question, pictures)]
            for question, pictures in zip(lists, images, strict=True)
        ]

    def _rankings(self, lists: Sequence[Question], images: Sequence[Pictures], config: TrialConfig) -> list[Ranking]:
        started = time.perf_counter()
        shown = [
            (asked.history[-config.history_length :], None if seen is None else seen[-config.history_length :])
            for asked, (seen, _) in zip(lists, images, strict=True)
        ]
        scores = self.scores(
            [(history, asked.candidates) for (history, _), asked in zip(shown, lists, strict=True)],
            config,
            [(of_history, pictures) for (_, of_history), (_, pictures) in zip(shown, images, strict=True)],
        )
        if self._title_scores is not None:
            scores = [
                config.model_weight * model_scores
                + self._title_scores.of([asked.history], [asked.candidates])[0].astype(np.float32)
                for model_scores, asked in zip(scores, lists, strict=True)
            ]
        seconds = (time.perf_counter() - started) / max(1, len(lists))
        return [_ranking(row, seconds, self.adjustment.temperature) for row in scores]

    def scores(
        self,
        lists: Sequence[tuple[Titles, Titles]],
        config: TrialConfig | None = None,
        images: Sequence[Pictures] | None = None,
    ) -> list[FloatArray]:
        """The model's log-probabilities of each list's candidates, or pointwise their log-odds, without collaborative scores
        and temperature.

        The labels' prior is divided out where the training's configuration says so. The titles and images are not
        checked.

        Args:
            config: replaces that of the training.
        """
        config = config or self.config
        given = images or [(None, None)] * len(lists)
        seen = [tuple(map(_with_images, *pair)) for pair in zip(lists, given, strict=True)]  # (title, image) of each
        items = list(dict.fromkeys(item for parts in seen for part in parts for item in part))
        code = {item: i for i, item in enumerate(items)}
        marks = None
        if self._images is not None:
            marks = self._images.of(given_images([image for _, image in items])[0])
        self._titles.read([title for title, _ in items], marks)
        rows_by_count: dict[int, list[int]] = {}
        for row, (_, candidates) in enumerate(lists):
            rows_by_count.setdefault(len(candidates), []).append(row)
        scores_by_row: dict[int, FloatArray] = {}
        for count, rows in rows_by_count.items():
            codes = [[tuple(code[item] for item in part) for part in seen[i]] for i in rows]
            examples = [Example(0, history, candidates, 0) for history, candidates in codes]  # the target is not used
            scores = self._scored(EncodedLists.of(self._encoder(config, count), examples))
            if prior := self.adjustment.label_prior:
                scores = scores - at_places(prior[:count], config.permutations)
            scores_by_row |= zip(rows, scores, strict=True)
        return [scores_by_row[row] for row in range(len(lists))]

    def _fault_of_prior(self, candidates: int) -> list[Fault]:
        """Of labels that stood in no validation list the prior is not known, nor where labels share tokens with others."""
        prior_labels = len(self.adjustment.label_prior)
        if not prior_labels or candidates == prior_labels:
            return []
        if candidates < prior_labels and self._encoder(self.config, prior_labels).trie.is_flat:
            return []
        at_most = "" if candidates < prior_labels else "at most "
        rule = (
            f"with label_prior: divide a list has {at_most}{prior_labels} candidates, the labels whose prior is known"
        )
        return [Fault(rule, field="candidates", value=candidates)]

    def _encoder(self, config: TrialConfig, candidates: int) -> Encoder:
        key = candidates, config.permutations
        if key not in self._encoders:
            self._encoders[key] = encoder_of(self._titles, config.model_copy(update={"candidates": candidates}))
        return self._encoders[key]

    def _asked(self, permutations: int | None) -> TrialConfig:
        if permutations is None:
            return self.config
        return build_trial_config({**self.config.model_dump(mode="json"), "permutations": permutations})

    def _image_faults(self, question: Question, pictures: Pictures) -> list[Fault]:
        faults = []
        parts = (("history_images", question.history), ("candidate_images", question.candidates))
        for (name, titles), images in zip(parts, pictures, strict=True):
            if images is None:
                continue
            if self._images is None:
                rule = "images need an adapter that was trained with image_mode: raw_image"
                faults.append(Fault(rule, field=name, hint=f"this one reads image_mode: {self.config.image_mode}"))
            elif isinstance(images, str) or not isinstance(images, Sequence) or len(images) != len(titles):
                faults.append(Fault("images must be a list with a path for each title, or null", field=name))
            elif any(not isinstance(image, str | None) for image in images):
                faults.append(Fault("an image must be a path, or null", field=name))
            else:
                _, rules = given_images(images)
                faults += [
                    Fault(rule, field=name, value=image, hint=how_to_raise(rule))
                    for image, rule in zip(images, rules, strict=True)
                    if rule
                ]
        return faults

    def _faults(self, question: Question) -> list[Fault]:
        history, candidates, ids = question
        named = {"history": history, "candidates": candidates}
        faults = [fault for name, titles in named.items() for fault in _faults_of_texts(name, titles)]
        if not faults and ids is not None and not _are_for(ids, candidates):
            faults = [Fault("must be a list with an id for each candidate", field="candidate_ids")]
        if faults:
            return faults
        if (
            self.config.scoring == "listwise"
            and self.config.label_style == "letters"
            and len(candidates) > len(LETTERS)
        ):
            rule = f"a list has at most {len(LETTERS)} candidates, a label each"
            faults.append(Fault(rule, field="candidates", value=len(candidates), hint="rank the best of a first stage"))
        self._titles.read([*history, *candidates])
        faults += self._fault_of_prior(len(candidates))  # whose encoder needs titles
        cleaned = self._titles.texts[len(history) :]
        for name, texts in (("history", self._titles.texts[: len(history)]), ("candidates", cleaned)):
            faults += [Fault(EMPTY_TITLE, field=name, value=named[name][i]) for i, text in enumerate(texts) if not text]
        counts = Counter(zip(cleaned, map(repr, ids or [None] * len(cleaned)), strict=True))
        rule, hint = "a candidate must stand once in a list", "tell them apart by name, or by candidate_ids"
        repeated = dict.fromkeys(text for (text, _), count in counts.items() if count > 1)
        faults += [Fault(rule, field="candidates", value=text, hint=hint) for text in repeated]
        try:
            self._titles.check_vocabulary(self.config.model)
        except InputError as error:
            faults += error.faults
        return faults


def _with_images(titles: Titles, images: Images | None) -> list[tuple[str, str | None]]:
    return list(zip(titles, images or [None] * len(titles), strict=True))


def _are_for(ids: Any, candidates: Titles) -> bool:
    return not isinstance(ids, str) and isinstance(ids, Sequence) and len(ids) == len(candidates)


def _faults_of_texts(name: str, titles: Any) -> list[Fault]:
    if isinstance(titles, str) or not isinstance(titles, Sequence):
        return [Fault(f"titles must be a list of texts, not {json_kind(titles)}", field=name)]
    if not titles:
        return [Fault("there must be at least one title", field=name)]
    rule = "a title must be text, and not blank"
    return [Fault(rule, field=name, value=title) for title in titles if not _is_text(title)]


def _is_text(title: Any) -> bool:
    if not isinstance(title, str) or not title.strip():
        return False
    try:
        title.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: valid in JSON, but not for tokenizers
        return False
    return True


def _ranking(scores: FloatArray, seconds: float, temperature: float) -> Ranking:
    if not np.isfinite(scores).all():
        raise TrainingError(
            "the model's answer holds NaN or infinity: the adapter has diverged, or its precision is too low"
        )
    shares = np.exp((scores.astype(np.float64) - scores.max()) / temperature)
    order = np.argsort(-scores, kind="stable")
    return Ranking(order.tolist(), (shares / shares.sum()).tolist(), seconds)
