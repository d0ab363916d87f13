"""What a table says of items' images → files that open, each with its content's hash; or every fault at once.

Images are made alike: RGB, upright, the first frame, transparency on white.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reranker.data.images.fetched_images import fetched, is_url
from reranker.data_config import ImageSource
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.storage.atomic_files import DamagedFile, read_json, write_json
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder
from reranker.storage.limits import IMAGE_BYTES, IMAGE_PIXELS
from reranker.storage.user_paths import user_path

if TYPE_CHECKING:
    from PIL.Image import Image as ImageType

warnings.filterwarnings("ignore", module=r"PIL\.")  # of metadata, and of sizes that are refused

_MOST_TIMES = 200  # the longer side over the shorter one; vision towers take no more
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_AT_ONCE = 8  # files
_SHOWN_FAULTS = 20
_SHOWN_RULES = 4
_VERSION = 1  # of the checks: verdicts of another version, or by other limits, are not used


@dataclass(frozen=True)
class ImageCell:
    """What a table says of one item's image: a path or an address, in a line of the table."""

    text: str
    line: int


@dataclass(frozen=True)
class ItemImages:
    """The images of a catalogue, by item code.

    Attributes:
        paths: where each image lies; None for an item that has none.
        hashes: SHA-256 of each file in hex; empty for an item that has none.
        sizes: width and height of each in pixels, upright; None for an item that has none.
        note: how many items have an image, and why the others have none.
        caption_model: what describes them in words, if anything does.
        not_had: items whose image is named and could not be had or opened.
    """

    paths: tuple[Path | None, ...]
    hashes: tuple[str, ...]
    sizes: tuple[tuple[int, int] | None, ...]
    note: str
    caption_model: str | None = None
    not_had: tuple[int, ...] = ()

    def without(self, items: Collection[int]) -> ItemImages:
        """The same where some items have none."""
        return replace(
            self,
            paths=tuple(None if item in items else path for item, path in enumerate(self.paths)),
            hashes=tuple("" if item in items else digest for item, digest in enumerate(self.hashes)),
            sizes=tuple(None if item in items else size for item, size in enumerate(self.sizes)),
            note=f"{self.note}; {len(items)} more have one now that they did not have when the study began",
            not_had=(*self.not_had, *items),
        )

    def open(self, item: int) -> ImageType | None:
        """An item's image; None if it has none.

        Raises:
            EnvironmentFault: the file is not what it was when the data were prepared.
        """
        path = self.paths[item]
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EnvironmentFault(f"cannot read {path}: {error.strerror or error}") from error
        if hashlib.sha256(content).hexdigest() != self.hashes[item]:
            raise EnvironmentFault(f"{path} has changed since the data were prepared; start a study of its own with it")
        return opened(content)


def opened(content: bytes) -> ImageType:
    """The image in a file's content, as RGB.

    Raises:
        ValueError: it is none, or breaks a limit; the message is the rule.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise ValueError("an image must not be empty")
    if len(content) > IMAGE_BYTES.most:
        raise ValueError(IMAGE_BYTES.rule("an image"))
    try:
        Image.MAX_IMAGE_PIXELS = IMAGE_PIXELS.most  # Pillow has a limit of its own
        image: ImageType = Image.open(io.BytesIO(content), formats=_FORMATS)
        _check_size(*image.size)
        image.load()
    except UnidentifiedImageError:
        raise ValueError(f"an image must be one of {', '.join(_FORMATS)}") from None
    except _Limit as limit:
        raise ValueError(str(limit)) from None
    except Image.DecompressionBombError:
        raise ValueError(IMAGE_PIXELS.rule("an image")) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError, IndexError, TypeError):
        raise ValueError("an image must be whole") from None
    with suppress(Exception):  # whatever is wrong with what it says of how the camera was held
        image = ImageOps.exif_transpose(image)
    return _rgb(image)


def given_images(cells: Sequence[str | None]) -> tuple[ItemImages, list[str]]:
    """Images that are given with a question, as paths from the current folder; None or blank for an item without one.

    Returns:
        The images, and for each of them the rule that it breaks, empty if it opens.
    """
    source = ImageSource(missing="text")
    resolved = [_found(cell, source, Path()) if cell and cell.strip() else _Found() for cell in cells]
    resolved = [_judged(image, *_verdict(image.path)) if image.path else image for image in resolved]
    images = ItemImages(
        tuple(None if image.rule else image.path for image in resolved),
        tuple("" if image.rule else image.hash for image in resolved),
        tuple(None if image.rule else image.size for image in resolved),
        "",
    )
    return images, [image.rule for image in resolved]


def how_to_raise(rule: str) -> str:
    """What raises the limit that a rule tells; empty for other rules."""
    return next((limit.hint for limit in (IMAGE_BYTES, IMAGE_PIXELS) if rule == limit.rule("an image")), "")


class _Limit(Exception):
    """A limit that an image breaks."""


def _check_size(width: int, height: int) -> None:
    if width * height > IMAGE_PIXELS.most:
        raise _Limit(IMAGE_PIXELS.rule("an image"))
    if max(width, height) > _MOST_TIMES * min(width, height):
        raise _Limit(f"an image must be at most {_MOST_TIMES} times as long as it is wide, or the other way round")


def _rgb(image: ImageType) -> ImageType:
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("an image must have 8 or 16 bits a channel")
    if "A" in image.getbands() or "transparency" in image.info:
        layered = image.convert("RGBA")
        background = Image.new("RGBA", layered.size, "white")
        return Image.alpha_composite(background, layered).convert("RGB")
    return image.convert("RGB")


@dataclass(frozen=True)
class _Found:
    path: Path | None = None
    hash: str = ""
    rule: str = ""  # that is broken
    size: tuple[int, int] | None = None


def item_images(cells: Sequence[ImageCell], source: ImageSource, table: Path, column: str) -> ItemImages:
    """Look at the image of each item.

    Args:
        cells: one an item; relative paths are from the table's folder.
        column: where they stand in the table.

    Raises:
        InputError: with `missing: error`, every image that is missing or does not open.
    """
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        texts = dict.fromkeys(cell.text.strip() for cell in cells)  # one for all, where shops have a picture of none
        found = dict(zip(texts, pool.map(lambda text: _found(text, source, table.parent), texts), strict=True))
        resolved = _checked([found[cell.text.strip()] for cell in cells], pool)
    broken = [(cell, image.rule) for cell, image in zip(cells, resolved, strict=True) if image.rule]
    if broken and source.missing == "error":
        hint = "data.images.missing: text reads such items as text; data.images.fetch: true gets addresses"
        faults = [
            Fault(rule, str(table), cell.line, column, cell.text, "; ".join(filter(None, [how_to_raise(rule), hint])))
            for cell, rule in broken[:_SHOWN_FAULTS]
        ]
        raise InputError(faults, total=len(broken))
    return ItemImages(
        tuple(None if image.rule else image.path for image in resolved),
        tuple("" if image.rule else image.hash for image in resolved),
        tuple(None if image.rule else image.size for image in resolved),
        _note(len(resolved), Counter(rule for _, rule in broken)),
        source.caption_model,
        tuple(
            i for i, (cell, image) in enumerate(zip(cells, resolved, strict=True)) if image.rule and cell.text.strip()
        ),
    )


def _note(items: int, rules: Counter[str]) -> str:
    note = f"images: {items - rules.total()} of {items} items have one"
    if not rules:
        return note
    shown = [
        f"{count} × {rule}{f' ({how})' if (how := how_to_raise(rule)) else ''}"
        for rule, count in rules.most_common(_SHOWN_RULES)
    ]
    others = "; …" * (len(rules) > _SHOWN_RULES)
    return f"{note}; the others are read as text: {'; '.join(shown)}{others}"


def _found(cell: str, source: ImageSource, folder: Path) -> _Found:
    """The file and its hash."""
    if not cell:
        return _Found(rule="every item must have an image")
    try:
        if is_url(cell):
            if not source.fetch:
                return _Found(rule="an image must be a file on this machine, not an address")
            path = fetched(cell, opened)
        else:
            path = folder / user_path(cell)
        if not path.is_file():
            return _Found(rule="an image must exist")
        if path.stat().st_size > IMAGE_BYTES.most:
            return _Found(rule=IMAGE_BYTES.rule("an image"))
        return _Found(path.absolute(), hashlib.sha256(path.read_bytes()).hexdigest())
    except ValueError as error:
        return _Found(rule=str(error))
    except OSError as error:
        return _Found(rule=f"an image must be readable: {error.strerror or error}")


def _checked(images: Sequence[_Found], pool: ThreadPoolExecutor) -> list[_Found]:
    """With the rules that contents break, and sizes. Verdicts on the same contents are kept: opening them all takes a while."""
    paths = {image.hash: image.path for image in images if image.path is not None}
    if not paths:
        return list(images)
    judged_by = [_VERSION, IMAGE_BYTES.most, IMAGE_PIXELS.most]
    key = hashlib.sha256("\n".join([*map(str, judged_by), *sorted(paths)]).encode()).hexdigest()[:32]
    kept = cache_folder() / "images" / f"{key}.json"
    verdicts: dict[str, list[Any]] | None = None
    with suppress(DamagedFile):
        verdicts = read_json(kept)["images"]
    if verdicts is None:
        verdicts = dict(zip(paths, pool.map(_verdict, paths.values()), strict=True))
        with suppress(OSError):
            make_folder(kept.parent)
            write_json(kept, {"images": verdicts})
    return [_judged(image, *verdicts[image.hash]) if image.path else image for image in images]


def _judged(image: _Found, rule: str, width: int, height: int) -> _Found:
    return replace(image, rule=rule, size=(width, height))


def _verdict(path: Path | None) -> list[Any]:
    """The rule that the file breaks, empty if it opens; and its width and height."""
    assert path is not None
    try:
        return ["", *opened(path.read_bytes()).size]
    except ValueError as error:
        return [str(error), 0, 0]
    except OSError as error:
        return [f"an image must be readable: {error.strerror or error}", 0, 0]
