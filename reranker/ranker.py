"""An adapter, a history and candidates → the candidates in order."""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors import SafetensorError
from transformers import PreTrainedModel

from reranker.config import LETTERS, TrialConfig, build_trial_config, validation_faults
from reranker.data.collaborative import TitleScores
from reranker.data.example import Example
from reranker.data.item_token_cache import EMPTY_TITLE, PassingTitles
from reranker.errors import EnvironmentFault, Fault, InputError, TrainingError, first_line
from reranker.evaluation.scoring import EncodedLists, FloatArray, score
from reranker.modeling.checkpoints import base_fingerprint, load_base, load_tokenizer
from reranker.modeling.device import best_device
from reranker.modeling.fused_lora import fuse
from reranker.prompting.prompts import PromptEncoder
from reranker.storage.atomic_files import DamagedFile
from reranker.trial_folder import ADAPTER_FACTS, TrialFolder, check_adapter, read_title_scores

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # on a deprecated option of its own


Titles = Sequence[str]


@dataclass(frozen=True)
class Ranking:
    """The answer for one list.

    Attributes:
        order: positions in the candidates as given, best first; ties stay in the order given.
        probabilities: that each candidate comes next, in the order given; they sum to 1.
        seconds: for tokenising and scoring; if several lists were ranked together, this list's share.
    """

    order: list[int]
    probabilities: list[float]
    seconds: float


class Reranker:
    """A base model with an adapter; ranks titles with the code that scored its validation lists.

    Attributes:
        config: of the training; it sets the prompt, whatever the number of candidates.
        device: where the model is.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: TrialConfig,
        device: torch.device,
        title_scores: TitleScores | None = None,
    ) -> None:
        self.config, self.device = config, device
        self._model, self._title_scores = model, title_scores
        self._titles = PassingTitles(load_tokenizer(config.model))
        self._encoders: dict[tuple[int, int], PromptEncoder] = {}
        self._alone = threading.Lock()  # scoring changes the model temporarily, and servers use several threads

    @staticmethod
    def load(adapter: Path | str, device: str | None = None, base: Path | str | None = None) -> Reranker:
        """A kept adapter on its base.

        Args:
            adapter: its folder, or the folder of its trial or refit.
            device: a torch device name; None: a GPU if there is one.
            base: a folder to use instead of the model that the adapter was trained on, if that has moved.

        Raises:
            EnvironmentFault: there is no complete adapter, or its base is not available.
            InputError: the adapter does not belong to the base.
        """
        folder, config, trained_on = _find(Path(adapter).expanduser())
        if base is not None:
            config = config.model_copy(update={"model": str(base)})
        target_device = _device(device)
        model = load_base(config, target_device)
        if trained_on and base_fingerprint(model) != trained_on:
            rule = "the base model's weights must be those that the adapter was trained on"
            raise InputError([Fault(rule, str(folder), field="model", value=config.model)])
        try:
            adapted = PeftModel.from_pretrained(model, str(folder))
        except (RuntimeError, ValueError) as error:
            rule = f"the adapter must belong to the base model: {first_line(error)}"
            raise InputError([Fault(rule, str(folder), field="model", value=config.model)]) from error
        except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
            raise EnvironmentFault(f"the adapter in {folder} cannot be read: {first_line(error)}") from error
        in_fp32 = model.dtype == torch.float32  # not merged into a bf16 base, which would round the adapter
        final = adapted.merge_and_unload() if in_fp32 else adapted
        if not in_fp32:
            fuse(adapted)
        return Reranker(final.to(target_device).eval(), config, target_device, read_title_scores(folder))

    def rank(self, history: Titles, candidates: Titles, permutations: int | None = None) -> Ranking:
        """Order the candidates by how probable each is to come next.

        Args:
            history: titles, oldest first.
            candidates: titles, all different: the model has never seen a list with duplicates.
            permutations: orders of the candidates to average over; None: as in validation.

        Raises:
            InputError: a title is not text; a list is empty, too long or has a candidate twice.
        """
        return self.rank_many([(history, candidates)], permutations)[0]

    def rank_many(self, lists: Sequence[tuple[Titles, Titles]], permutations: int | None = None) -> list[Ranking]:
        """What `rank` gives for each (history, candidates), scored together.

        Raises:
            InputError: every fault of every list.
        """
        config = self._asked(permutations)
        with self._alone:
            faults = [
                fault if len(lists) == 1 else replace(fault, file=f"list {number}")
                for number, (history, candidates) in enumerate(lists, start=1)
                for fault in self._faults(history, candidates)
            ]
            if faults:
                raise InputError(faults)
            started = time.perf_counter()
            scores = self.scores([(h[-config.history_length :], c) for h, c in lists], config)
            if self._title_scores is not None:
                scores = [
                    config.model_weight * model_scores
                    + self._title_scores.of([history], [candidates])[0].astype(np.float32)
                    for model_scores, (history, candidates) in zip(scores, lists, strict=True)
                ]
            seconds = (time.perf_counter() - started) / max(1, len(lists))
        return [_ranking(row, seconds) for row in scores]

    def scores(self, lists: Sequence[tuple[Titles, Titles]], config: TrialConfig | None = None) -> list[FloatArray]:
        """The model's log-probabilities of each list's candidates, without collaborative scores.

        The titles are not checked.

        Args:
            config: replaces that of the training.
        """
        config = config or self.config
        texts = list(dict.fromkeys(title for history, candidates in lists for title in (*history, *candidates)))
        code = {text: i for i, text in enumerate(texts)}
        self._titles.read(texts)
        rows_by_count: dict[int, list[int]] = {}
        for row, (_, candidates) in enumerate(lists):
            rows_by_count.setdefault(len(candidates), []).append(row)
        scores_by_row: dict[int, FloatArray] = {}
        for count, rows in rows_by_count.items():
            codes = [[tuple(code[title] for title in part) for part in lists[i]] for i in rows]
            examples = [Example(0, history, candidates, 0) for history, candidates in codes]  # the target is not used
            with self._autocast():
                scores = score(self._model, EncodedLists.of(self._encoder(config, count), examples))
            scores_by_row |= zip(rows, scores, strict=True)
        return [scores_by_row[row] for row in range(len(lists))]

    def _encoder(self, config: TrialConfig, candidates: int) -> PromptEncoder:
        key = candidates, config.permutations
        if key not in self._encoders:
            self._encoders[key] = PromptEncoder(self._titles, config.model_copy(update={"candidates": candidates}))
        return self._encoders[key]

    def _autocast(self) -> Any:
        """As in training: the fp32 adapter of a bf16 base computes in bf16."""
        half = self._model.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def _asked(self, permutations: int | None) -> TrialConfig:
        if permutations is None:
            return self.config
        return build_trial_config({**self.config.model_dump(mode="json"), "permutations": permutations})

    def _faults(self, history: Titles, candidates: Titles) -> list[Fault]:
        named = {"history": history, "candidates": candidates}
        faults = [fault for name, titles in named.items() for fault in _faults_of_texts(name, titles)]
        if faults:
            return faults
        if self.config.label_style == "letters" and len(candidates) > len(LETTERS):
            rule = f"a list has at most {len(LETTERS)} candidates, a label each"
            faults.append(Fault(rule, field="candidates", value=len(candidates), hint="rank the best of a first stage"))
        self._titles.read([*history, *candidates])
        cleaned = self._titles.texts[len(history) :]
        for name, texts in (("history", self._titles.texts[: len(history)]), ("candidates", cleaned)):
            faults += [Fault(EMPTY_TITLE, field=name, value=named[name][i]) for i, text in enumerate(texts) if not text]
        faults += [
            Fault(
                "a candidate must stand once in a list", field="candidates", value=text, hint="tell them apart by name"
            )
            for text in dict.fromkeys(cleaned)
            if cleaned.count(text) > 1
        ]
        try:
            self._titles.check_vocabulary(self.config.model)
        except InputError as error:
            faults += error.faults
        return faults


def _faults_of_texts(name: str, titles: Any) -> list[Fault]:
    if isinstance(titles, str) or not isinstance(titles, Sequence):
        return [Fault("titles must be a list of texts", field=name, value=type(titles).__name__)]
    if not titles:
        return [Fault("there must be at least one title", field=name)]
    return [Fault("a title must be a text", field=name, value=title) for title in titles if not _is_text(title)]


def _is_text(title: Any) -> bool:
    if not isinstance(title, str) or not title.strip():
        return False
    try:
        title.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: valid in JSON, but not for tokenizers
        return False
    return True


def _ranking(scores: FloatArray, seconds: float) -> Ranking:
    if not np.isfinite(scores).all():
        raise TrainingError(
            "the model's answer holds NaN or infinity: the adapter has diverged, or its precision is too low"
        )
    shares = np.exp(scores.astype(np.float64) - scores.max())
    order = np.argsort(-scores, kind="stable")
    return Ranking(order.tolist(), (shares / shares.sum()).tolist(), seconds)


def _find(path: Path) -> tuple[Path, TrialConfig, str]:
    """The adapter's folder, its configuration (its own or its trial's), and the fingerprint of its base ("" for an old
    adapter)."""
    folder = path if (path / "adapter_config.json").is_file() else path / "adapter"
    absent = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if absent:
        raise EnvironmentFault(f"there is no adapter in {path}: an adapter's folder must hold {' and '.join(absent)}")
    check_adapter(folder)
    facts = folder / ADAPTER_FACTS
    try:
        if facts.is_file():
            content = json.loads(facts.read_text(encoding="utf-8"))
            return folder, TrialConfig.model_validate(content["config"]), content["base"]
        return folder, TrialFolder(folder.parent).read_config(), ""
    except ValidationError as error:
        raise InputError(validation_faults(error, TrialConfig, file=str(facts))) from None
    except DamagedFile as error:
        if error.path.exists():
            raise
        rule = f"{folder} must hold {ADAPTER_FACTS}, or lie in its trial's folder beside config.json"
        raise EnvironmentFault(rule) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise EnvironmentFault(f"{facts} cannot be read: {first_line(error)}") from error


def _device(name: str | None) -> torch.device:
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise EnvironmentFault(f"there is no device {name!r} here: {first_line(error)}") from error
    return best_device()
