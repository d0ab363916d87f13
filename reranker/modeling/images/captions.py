"""A catalogue's images → a caption of each, by a model that describes images in words: made once, and kept."""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)

from reranker.data.assemble import RerankingData
from reranker.data.images.item_images import ItemImages
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.modeling.checkpoints.model_files import local_folder, weight_files
from reranker.modeling.checkpoints.model_names import MODELS, is_hub_id
from reranker.modeling.checkpoints.vision_models import READS_IMAGES, reads_images
from reranker.modeling.device import best_device, computes_in_bf16
from reranker.modeling.model_loading import from_pretrained
from reranker.storage.atomic_files import append_line, sound_lines
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTIONERS = ("blip", "git", "vision-encoder-decoder")  # what writes a caption without being asked anything
_QUESTION = "Describe this item in one short sentence."  # to a model that must be asked
_MOST_PIXELS = 262_144  # of an image that it is shown
_LONGEST = 40  # tokens
_AT_ONCE = 8  # images
_TOLD_S = 10.0  # between two words on how far it is
_VERSION = 1  # of how captions are made
_SETTINGS = (".json", ".jinja", ".model", ".txt")  # files of a model beside its weights
_BLOCKS, _BLOCK = 64, 4096  # of a weight file that are hashed, and bytes of each


def have_captions(data: RerankingData, tell: Callable[[str], None] = lambda text: None) -> None:
    """Give the data the captions of their items, made now where they are not kept.

    Args:
        tell: how far it is.

    Raises:
        InputError: the data name no caption model, or one that is none.
        EnvironmentFault: it is not available, or an image has changed.
    """
    if data.captions:
        return
    data.check_images("caption")
    images = data.interactions.images
    assert images is not None
    assert images.caption_model is not None
    data.captions.extend(captions(images, images.caption_model, tell))


def are_kept(data: RerankingData) -> bool:
    """Whether captions of all images can be had without the model."""
    images = data.interactions.images
    if data.captions or images is None or images.caption_model is None:
        return bool(data.captions)
    if (folder := local_folder(images.caption_model)) is None:
        return False
    return {file_hash for file_hash in images.hashes if file_hash} <= _kept(_place(folder)).keys()


def captions(images: ItemImages, model: str, tell: Callable[[str], None] = lambda text: None) -> list[str]:
    """One an item, on one line; empty for an item without an image.

    Raises:
        InputError, EnvironmentFault: as `have_captions`.
    """
    captioner = None
    if (folder := local_folder(model)) is None:
        captioner = _Captioner(model)  # fetches it
        folder = local_folder(model)
    place = _place(folder) if folder else None
    kept = {} if place is None else _kept(place)
    items = {file_hash: item for item, file_hash in enumerate(images.hashes) if file_hash}
    with _alone(place):
        kept |= {} if place is None else _kept(place)
        missing = [(file_hash, item) for file_hash, item in items.items() if file_hash not in kept]
        if missing:
            captioner = captioner or _Captioner(model)
        told_at = -math.inf
        for start in range(0, len(missing), _AT_ONCE):
            if time.monotonic() - told_at > _TOLD_S:
                told_at = time.monotonic()
                tell(f"describing images with {model}, {start} of {len(missing)}")
            part = missing[start : start + _AT_ONCE]
            opened = [image for _, item in part if (image := images.open(item)) is not None]
            assert captioner is not None
            for (file_hash, _), text in zip(part, captioner.describe(opened), strict=True):
                kept[file_hash] = text
                if place is not None:
                    with contextlib.suppress(EnvironmentFault):
                        append_line(place, {"image": file_hash, "caption": text})
    return [kept[file_hash] if file_hash else "" for file_hash in images.hashes]


def check_captioner(model: str) -> bool:
    """Whether the caption model is here; what it is, is looked at if so. Touches no network.

    Raises:
        InputError: there can be no such model, or it describes no images.
        EnvironmentFault: its files can't be read.
    """
    if model not in MODELS and not Path(model).expanduser().is_dir() and not is_hub_id(model):
        rule = "the caption model must be a folder that is there, or an id of the Hub, owner/name"
        raise InputError([Fault(rule, field="data.images.caption_model", value=model)])
    if local_folder(model) is None:
        return False
    _described(model)
    return True


def _described(model: str) -> PreTrainedConfig:
    """The model's configuration, of a kind that describes images."""
    described = from_pretrained(AutoConfig, model)
    assert isinstance(described, PreTrainedConfig)
    if described.model_type not in CAPTIONERS and not reads_images(described):
        rule = f"a caption model must describe images; {described.model_type} does not"
        hint = f"supported: {', '.join((*CAPTIONERS, *READS_IMAGES))}, such as Salesforce/blip-image-captioning-base"
        raise InputError([Fault(rule, field="data.images.caption_model", value=model, hint=hint)])
    return described


class _Captioner:
    """A model that writes captions, greedily."""

    def __init__(self, model: str) -> None:
        self._is_asked = reads_images(_described(model))
        self._device = best_device()
        half = self._device.type == "cuda" and computes_in_bf16(self._device)
        dtype = torch.bfloat16 if half else torch.float32
        loaded, facts = from_pretrained(AutoModelForImageTextToText, model, dtype=dtype, output_loading_info=True)
        if facts["missing_keys"]:
            rule = f"the caption model's weights must be whole; {len(facts['missing_keys'])} are missing"
            raise InputError([Fault(rule, field="data.images.caption_model", value=model)])
        assert isinstance(loaded, PreTrainedModel)
        self._model: Any = loaded.to(self._device).eval()
        self._processor = from_pretrained(AutoImageProcessor, model, backend="pil")
        self._tokenizer = from_pretrained(AutoTokenizer, model)

    @torch.no_grad()
    def describe(self, images: Sequence[Image]) -> list[str]:
        if self._is_asked:
            return [self._answer(image) for image in images]
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        options = {"max_new_tokens": _LONGEST, "do_sample": False, "num_beams": 1}
        ids = self._model.generate(pixel_values=pixels.to(self._device, self._model.dtype), **options)
        return [_one_line(text) for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _answer(self, image: Image) -> str:
        """What a model says that is shown an image and asked a question."""
        facts = self._model.config
        least = min(self._processor.size["shortest_edge"], _MOST_PIXELS)
        size = {"shortest_edge": least, "longest_edge": _MOST_PIXELS}
        shown = self._processor(images=[image], size=size, return_tensors="pt")
        count = int(shown["image_grid_thw"].prod()) // self._processor.merge_size**2
        marks = [facts.vision_start_token_id, *[facts.image_token_id] * count, facts.vision_end_token_id]
        text = "".join(self._tokenizer.convert_ids_to_tokens(marks)) + _QUESTION
        prompt = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        ids = self._tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"].to(self._device)
        answer = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == facts.image_token_id).int(),
            pixel_values=shown["pixel_values"].to(self._device),
            image_grid_thw=shown["image_grid_thw"].to(self._device),
            max_new_tokens=_LONGEST,
            do_sample=False,
        )
        return _one_line(self._tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _place(folder: Path) -> Path:
    """Where captions by the model in this folder are kept; another one for other weights, tokenizer or processor."""
    digest = hashlib.sha256(f"{_VERSION} {_LONGEST} {_QUESTION} {_MOST_PIXELS}".encode())
    settings = sorted(file for file in folder.glob("*") if file.suffix in _SETTINGS)
    for file in [*settings, *weight_files(folder)]:
        with contextlib.suppress(OSError), file.open("rb") as content:
            size = file.stat().st_size
            digest.update(f"{file.name} {size}".encode())
            for start in range(0, size, max(_BLOCK, size // _BLOCKS)):
                content.seek(start)
                digest.update(content.read(_BLOCK))
    return cache_folder() / "captions" / f"{digest.hexdigest()[:32]}.jsonl"


def _kept(place: Path) -> dict[str, str]:
    """The captions that are kept there, by the hash of the image; none if the file is missing, and no damaged line."""
    with contextlib.suppress(EnvironmentFault):
        return {line["image"]: line["caption"] for line in sound_lines(place, {"image": str, "caption": str})[0]}
    return {}


@contextlib.contextmanager
def _alone(place: Path | None) -> Iterator[None]:
    """One process at a time makes captions of a model, where the file system has locks."""
    with contextlib.ExitStack() as stack:
        if place is not None:
            with contextlib.suppress(OSError, NotImplementedError):
                make_folder(place.parent)
                stack.enter_context(FileLock(f"{place}.lock"))
        yield
