"""Items' images → what a model that reads images takes: tokens in prompts, their places, and what its tower makes of them.

In prompts an image is as many copies of −1 − item as it has tokens, so that prompts with other images differ. They become
the model's own token when a pass is made (`ImageInputs.in_pass`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reranker.data.images.item_images import ItemImages
from reranker.data.item_token_cache import ImageMarks
from reranker.modeling.checkpoints.vision_models import vision_tower
from reranker.modeling.memory.memory_estimate import MOST_KEPT

IntArray = NDArray[np.int64]


class ImageInputs(ImageMarks):
    """The images of a catalogue for one model.

    A frozen tower sees each image once, by itself: what it makes of it then has the same bits whatever stands beside it,
    and whatever was kept of it.

    Args:
        processor: the model's image processor.
        mark, token: what stands for an image in a text, and the token in it that stands for all of the image's.
        most_pixels: of an image after it was resized.
    """

    def __init__(self, images: ItemImages, processor: Any, mark: str, token: int, most_pixels: int) -> None:
        self.images = images
        self._processor, self._most = processor, most_pixels
        self._kept = _KeptFeatures()
        self.grids = [None if size is None else self._grid(*size) for size in images.sizes]
        super().__init__(
            text=mark,
            token=token,
            counts=tuple(0 if grid is None else grid[0] * grid[1] for grid in self.grids),
            key="\n".join([str(most_pixels), *images.hashes]),
        )

    def of(self, images: ItemImages) -> ImageInputs:
        """Other images for the same model; what was made of those before is kept."""
        others = ImageInputs(images, self._processor, self.text, self.token, self._most)
        others._kept = self._kept
        return others

    def in_pass(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A pass of `reranker.modeling.batching.pad_right`, or with a layout, whose prompts may hold images.

        Where they do, it gets `places` [3, rows, columns], each token's place in time, height and width, and `pictures`,
        the items in the order of their images. `input_ids` get the model's own token.
        """
        ids: Tensor = batch["input_ids"]
        if not (ids < 0).any():
            return batch
        flat = ids.flatten().numpy()
        begins = np.flatnonzero((flat < 0) & (np.concatenate([[0], flat[:-1]]) != flat))
        return {
            **batch,
            "input_ids": ids.masked_fill(ids < 0, self.token),
            "places": torch.from_numpy(self._places(batch)),
            "pictures": (-1 - flat[begins]).tolist(),
        }

    def arguments(self, base: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """What the model takes besides for the pictures of a pass; nothing if it has none."""
        items: Sequence[int] = batch.get("pictures", ())
        if not items:
            return {}
        tower = vision_tower(base)
        if any("lora_" in name for name, _ in tower.named_parameters()):
            pixels, grids = zip(*(self._pixels(item) for item in items), strict=True)
            return {
                "pixel_values": torch.cat(pixels).to(tower.device),
                "image_grid_thw": torch.cat(grids).to(tower.device),
            }
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        whole = torch.cat([self._made(base, item) for item in items]).to(tower.device)
        embeddings, *layers = torch.split(whole, tower.config.out_hidden_size, dim=1)
        made = BaseModelOutputWithDeepstackFeatures(
            pooler_output=(embeddings,), deepstack_features=[(layer,) for layer in layers]
        )
        return {"mm_encoder_outputs": {"image": made}}

    @torch.no_grad()
    def _made(self, base: Any, item: int) -> Tensor:
        """What the frozen tower makes of an item's image, [tokens, embedding and those for the first layers]."""
        key = self.images.hashes[item], id(base), base.dtype
        if (kept := self._kept.get(key)) is not None:
            return kept
        tower = vision_tower(base)
        pixels, grid = self._pixels(item)
        with torch.autocast(tower.device.type, enabled=False):
            made = base.model.get_image_features(pixels.to(tower.device), grid.to(tower.device), return_dict=True)
        parts = [made.pooler_output, *made.deepstack_features]
        features = torch.cat([torch.cat(part) for part in parts], dim=1).cpu()
        self._kept.put(key, features)
        return features

    def _pixels(self, item: int) -> tuple[Tensor, Tensor]:
        """An item's patches, fp32 [patches, numbers], and its grid of patches, int64 [1, 3]."""
        image, grid = self.images.open(item), self.grids[item]
        assert image is not None
        assert grid is not None
        side = self._side
        resized = image.resize((grid[1] * side, grid[0] * side), self._processor.resample)
        made = self._processor(images=[np.asarray(resized)], do_resize=False, return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]

    @property
    def _side(self) -> int:
        """Pixels of a token's side."""
        return int(self._processor.patch_size * self._processor.merge_size)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of an image's tokens: the processor's own where they keep within the limit.

        It rounds up what it enlarges, and gives a long strip a token for each of its squares, so both may pass it.
        """
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        least = min(self._processor.size["shortest_edge"], self._most)
        rows, columns = (pixels // self._side for pixels in smart_resize(height, width, self._side, least, self._most))
        most = max(1, self._most // self._side**2)
        return (rows, columns) if rows * columns <= most else _nearest(most, height / width)

    def _places(self, batch: dict[str, Any]) -> IntArray:
        from reranker.modeling.shared_list_attention import Layout  # brings transformers, which texts alone do not need

        ids, layout = batch["input_ids"].numpy(), Layout(**batch["layout"]) if "layout" in batch else None
        if layout is None:
            flat = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
            real = flat <= batch["ends"].numpy()[:, None]
        else:
            real, flat = layout.real.numpy(), layout.places.numpy()
        places = np.tile(flat, (3, 1, 1))
        ends = [ids.shape[1]]
        if layout is not None:
            ends = [layout.prefix + layout.width * branch for branch in range(layout.branches + 1)]
        for row in range(len(ids)):
            behind, begin = 0, 0
            for end in ends:
                columns = begin + np.flatnonzero(real[row, begin:end])
                before = 0 if begin == 0 else behind
                places[:, row, columns], shift = self._spread(ids[row, columns], flat[row, columns], before)
                behind, begin = (shift if begin == 0 else behind), end
        return places

    def _spread(self, ids: IntArray, places: IntArray, before: int) -> tuple[IntArray, int]:
        """Places in time, height and width, [3, tokens], of a part of a text whose tokens' places in a row are given.

        An image's tokens share one time and lie on a grid from there; the text goes on behind its longer side. So
        each image moves what follows ahead, by `before` in the parts before; the second result is by how much at the end.
        """
        begins = np.flatnonzero((ids < 0) & (np.concatenate([[0], ids[:-1]]) != ids))
        moved, shift = np.full(len(ids), before), before
        on_grids = []
        for begin in begins.tolist():
            grid = self.grids[-1 - int(ids[begin])]
            assert grid is not None
            rows, columns = grid
            end = begin + rows * columns
            first = places[begin] - shift
            on_grids.append((begin, end, first, np.repeat(np.arange(rows), columns), np.tile(np.arange(columns), rows)))
            shift += rows * columns - max(rows, columns)
            moved[end:] = shift
        spread = np.tile(places - moved, (3, 1))
        for begin, end, first, down, across in on_grids:
            spread[:, begin:end] = first
            spread[1, begin:end] += down
            spread[2, begin:end] += across
        return spread, shift


class _KeptFeatures:
    """What towers made of images, the least recently used first; no more than MOST_KEPT bytes."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Tensor | None:
        if key in self._by_key:
            self._by_key.move_to_end(key)
        return self._by_key.get(key)

    def put(self, key: Hashable, features: Tensor) -> None:
        self._by_key[key] = features
        self._bytes += features.nbytes
        while self._bytes > MOST_KEPT and len(self._by_key) > 1:
            self._bytes -= self._by_key.popitem(last=False)[1].nbytes


def _nearest(most: int, shape: float) -> tuple[int, int]:
    """The grid of at most so many tokens that is nearest to as many of this shape, rows over columns."""
    tall, wide = math.sqrt(most * shape), math.sqrt(most / shape)
    grids = []
    for towards in (math.floor, math.ceil):
        rows, columns = (max(1, min(most, towards(exact))) for exact in (tall, wide))
        grids += [(rows, max(1, min(most // rows, round(wide)))), (max(1, min(most // columns, round(tall))), columns)]
    return min(grids, key=lambda grid: abs(math.log(grid[0] / tall)) + abs(math.log(grid[1] / wide)))


def image_tokens(ids: Sequence[int]) -> list[tuple[int, int]]:
    """The images of a prompt: item, and number of tokens."""
    array = np.asarray(ids)
    begins = np.flatnonzero((array < 0) & (np.concatenate([[0], array[:-1]]) != array))
    counts = [int((array[begin:] == array[begin]).argmin()) or len(array) - begin for begin in begins.tolist()]
    return list(zip((-1 - array[begins]).tolist(), counts, strict=True))
