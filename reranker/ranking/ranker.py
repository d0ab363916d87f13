"""An adapter on its base model, on this machine → the candidates in order."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import PreTrainedModel

from reranker.artifacts.adapter_files import ADAPTER_FACTS, check_adapter, read_adjustment, read_title_scores
from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import AS_SCORED, Adjustment
from reranker.config import TrialConfig, validation_faults
from reranker.data.recommenders.collaborative_scores import TitleScores
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.evaluation.scoring import EncodedLists, FloatArray, score
from reranker.modeling.device import best_device
from reranker.modeling.lora.fused_lora import fuse
from reranker.modeling.model_loading import base_fingerprint, load_base
from reranker.ranking.adapted_base import adapted, check_chat
from reranker.ranking.list_ranker import ListRanker
from reranker.storage.atomic_files import DamagedFile

warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # on a deprecated option of its own

_LISTS = {"cpu": 16, "mps": 64, "cuda": 256}  # ranked together; on a CPU more don't help


class Reranker(ListRanker):
    """A base model with an adapter; ranks with the code that scored its validation lists.

    Attributes:
        device: where the model is.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        config: TrialConfig,
        device: torch.device,
        title_scores: TitleScores | None = None,
        adjustment: Adjustment = AS_SCORED,
    ) -> None:
        super().__init__(config, title_scores, adjustment)
        self.device, self._model = device, model

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
        folder, config, trained_on = find_adapter(Path(adapter).expanduser())
        if base is not None:
            config = config.model_copy(update={"model": str(base)})
        target_device = _device(device)
        model = load_base(config, target_device)
        if trained_on and base_fingerprint(model) != trained_on:
            rule = "the base model's weights must be those that the adapter was trained on"
            raise InputError([Fault(rule, str(folder), field="model", value=config.model)])
        on_base = adapted(model, folder, config.model)
        in_fp32 = model.dtype == torch.float32  # not merged into a bf16 base, which would round the adapter
        final = on_base.merge_and_unload() if in_fp32 else on_base
        if not in_fp32:
            fuse(on_base)
        title_scores, adjustment = read_title_scores(folder), read_adjustment(folder)
        reranker = Reranker(final.to(target_device).eval(), config, target_device, title_scores, adjustment)
        check_chat(reranker.tokenizer, folder, config.model)
        return reranker

    @property
    def place(self) -> str:
        """Where the model is, for people."""
        return self.device.type

    @property
    def batch_lists(self) -> int:
        """How many lists it ranks best together."""
        return _LISTS[self.device.type]

    def _scored(self, lists: EncodedLists) -> FloatArray:
        with self._autocast():
            return score(self._model, lists)

    def _autocast(self) -> Any:
        """As in training: the fp32 adapter of a bf16 base computes in bf16."""
        half = self._model.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()


def find_adapter(path: Path) -> tuple[Path, TrialConfig, str]:
    """The adapter's folder, its configuration (its own or its trial's), and the fingerprint of its base ("" for an old
    adapter).

    Args:
        path: its folder, or the folder of its trial or refit.

    Raises:
        EnvironmentFault: there is no complete adapter.
        InputError: it cannot be used here.
    """
    folder = path if (path / "adapter_config.json").is_file() else path / "adapter"
    absent = [name for name in ("adapter_config.json", "adapter_model.safetensors") if not (folder / name).is_file()]
    if absent:
        raise EnvironmentFault(f"there is no adapter in {path}: an adapter's folder must hold {' and '.join(absent)}")
    content, facts = check_adapter(folder), folder / ADAPTER_FACTS
    try:
        if facts.is_file():
            return folder, TrialConfig.model_validate(content["config"]), content["base"]
        return folder, TrialFolder(folder.parent).read_config(), ""
    except ValidationError as error:
        raise InputError(validation_faults(error, TrialConfig, file=str(facts))) from None
    except DamagedFile as error:
        if error.path.exists():
            raise
        rule = f"{folder} must hold {ADAPTER_FACTS}, or lie in its trial's folder beside config.json"
        raise EnvironmentFault(rule) from error
    except KeyError as error:
        raise InputError([Fault("this must be given", str(facts), field=str(error.args[0]))]) from error
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise EnvironmentFault(f"{facts} cannot be read: {first_line(error)}") from error


def _device(name: str | None) -> torch.device:
    if name is not None:
        try:
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise EnvironmentFault(f"there is no device {name!r} here: {first_line(error)}") from error
    return best_device()
