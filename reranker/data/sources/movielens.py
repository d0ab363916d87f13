"""A MovieLens folder or zip → the tables of interactions and items; fetches `ml-latest-small` if none is given."""

from __future__ import annotations

import hashlib
import http.client
import lzma
import os
import re
import struct
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from reranker.data.sources.origin import ANY_MOVIELENS, MOVIELENS
from reranker.data.sources.reading.fault_list import FaultList, raise_faults
from reranker.data.sources.reading.table_file import TextFile
from reranker.data.sources.tables import fill, items_of, read_columns, read_interactions, read_items
from reranker.data_config import MovieLensData
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.item_text import ItemTemplate
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_kinds import what_it_is
from reranker.storage.file_permissions import make_folder
from reranker.storage.limits import UNPACKED_BYTES, UNPACKED_TIMES
from reranker.storage.user_paths import path_in

ADDRESS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"
RATINGS = {  # in each release
    "ml-100k": 100_000,
    "ml-1m": 1_000_209,
    "ml-10m": 10_000_054,
    "ml-20m": 20_000_263,
    "ml-25m": 25_000_095,
    "ml-32m": 32_000_204,
}
LOWEST_RATING, HIGHEST_RATING = 0.5, 5
_UNPACKED = {"ml-10m": "ml-10M100K"}  # the folder in the zip, where it has another name
SHA256 = "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436"
_TIMEOUT = 30  # seconds without an answer
_PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class _Layout:
    ratings: str
    movies: str
    ratings_text: Callable[[str, bytes], TextFile]
    movies_text: Callable[[str, bytes], TextFile]


_GENRES = (  # the flags of ml-100k, in their order
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
_RATING_COLUMNS = ("userId", "movieId", "rating", "timestamp")


def _double_colons(name: str, data: bytes, header: tuple[str, ...]) -> TextFile:
    return TextFile(name, _utf8(data.replace(b"::", b"\t")), "\t", header, quoted=False)


_LAYOUTS = (
    _Layout("ratings.csv", "movies.csv", TextFile, TextFile),  # ml-latest-small, 20m, 25m, 32m
    _Layout(  # 1m, 10m
        "ratings.dat",
        "movies.dat",
        lambda name, data: _double_colons(name, data, _RATING_COLUMNS),
        lambda name, data: _double_colons(name, data, ("movieId", "title", "genres")),
    ),
    _Layout(  # 100k; a movie has 22 more fields: dates, an address and flags of genres
        "u.data",
        "u.item",
        lambda name, data: TextFile(name, data, "\t", _RATING_COLUMNS, quoted=False),
        lambda name, data: TextFile(
            name, _utf8(data), "|", ("movieId", "title", "released", "on video", "address", *_GENRES), quoted=False
        ),
    ),
)


def read(config: MovieLensData) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Ratings and titles; articles move from the end to the front: "Matrix, The (1999)" → "The Matrix (1999)".

    Two movies may have the same title: they are different items.

    Raises:
        InputError: the path holds no MovieLens data, or its files break the rules of `reranker.data.sources.tables`.
        EnvironmentFault: no path is given, none was found, and the download failed; or a file may not be read.
    """
    path = config.path if config.path is not None else find_release(config.release) if config.release else find_small()
    try:
        layout, files = _open(path)
    except PermissionError as error:
        raise EnvironmentFault(f"cannot read {path}: no permission") from error
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror or error}") from error
    rating_faults, movie_faults = FaultList(f"{path}/{layout.ratings}"), FaultList(f"{path}/{layout.movies}")
    ratings = read_interactions(
        layout.ratings_text(rating_faults.file, files[0]), rating_faults, {"user_id": "userId", "item_id": "movieId"}
    )
    if "rating" in ratings:
        stars = ratings["rating"].to_numpy()
        is_out = np.isfinite(stars) & ((stars < LOWEST_RATING) | (stars > HIGHEST_RATING))
        rating_faults.add_rows(
            f"a rating must be from {LOWEST_RATING} to {HIGHEST_RATING}", "rating", ratings["rating"], is_out
        )
    elif config.min_rating and not rating_faults.total:
        rating_faults.add("needs a column 'rating'", column="data.min_rating", value=config.min_rating)
    if config.release and not rating_faults.total and len(ratings) != RATINGS[config.release]:
        rule = f"{config.release} must have {RATINGS[config.release]:,} ratings"
        rating_faults.add(rule, value=len(ratings), hint="name its place as data.path to use it as it is")
    movies = _movies(layout.movies_text(movie_faults.file, files[1]), movie_faults, config.item_text)
    raise_faults(rating_faults, movie_faults)
    return ratings, movies


def _movies(file: TextFile, faults: FaultList, template: str | None) -> pd.DataFrame:
    """Columns item_id and text. Without a template that is the title with its year, as it stands in the file."""
    names = {"item_id": "movieId", "text": "title"}
    if template is None:
        movies = read_items(file, faults, names)
        return movies if faults.total else movies.assign(text=movies["text"].map(readable_title))
    flags = [name for name in file.header if name in _GENRES]
    table = read_columns(file, ("movieId", "title", *(flags or ["genres"])), faults)
    if faults.total:
        return table
    titles = table["title"].str.extract(_TITLE_AND_YEAR)
    fields = pd.DataFrame({"title": titles[0].map(readable_title), "year": titles[1].fillna("")}, index=table.index)
    if flags:
        rows = table[flags].itertuples(index=False, name=None)
        fields["genres"] = [
            ", ".join(name for name, flag in zip(flags, row, strict=True) if flag == "1") for row in rows
        ]
    else:
        genres = table["genres"].str.replace("(no genres listed)", "", regex=False)
        fields["genres"] = genres.str.replace("|", ", ", regex=False)
    parsed = ItemTemplate.parse(template)
    return items_of(table["movieId"], fill(parsed, fields), ("movieId", ", ".join(parsed.fields)), faults)


_TITLE_AND_YEAR = re.compile(r"^(.*?)\s*(?:\((\d{4})(?:[-–]\d{0,4})?\))?\s*$", re.DOTALL)
_ARTICLES = "The|A|An|Le|La|Les|L'|Un|Une|Der|Die|Das|Ein|Eine|Il|Lo|Gli|I|El|Los|Las|Una|O|Os|As|Den|Det|De|En|Het"
_ARTICLE_LAST = re.compile(rf"(^|\()((?:a\.k\.a\. )?)([^()]+), ({_ARTICLES})(?=\s*(?:[()]|$))")


def readable_title(title: str) -> str:
    """The title with articles in front, also in the alternative titles in brackets."""

    def in_front(match: re.Match[str]) -> str:
        opening, alias, name, article = match.groups()
        return f"{opening}{alias}{article}{'' if article.endswith(chr(39)) else ' '}{name}"

    return _ARTICLE_LAST.sub(in_front, title).strip()


def find_small() -> Path:
    """The zip or folder of `ml-latest-small`: in a known location, or fetched into the cache.

    Raises:
        InputError: the zip that was found isn't the published one.
        EnvironmentFault: it was not found, and could not be fetched.
    """
    return find_local() or _fetch(cache_folder() / "ml-latest-small.zip", _places())


def find_release(name: str) -> Path:
    """The zip or folder of a release in a known location; it is never fetched, for some have hundreds of megabytes.

    Raises:
        InputError: it was not found.
    """
    for place in _places():
        for release in (place / _UNPACKED.get(name, name), place / f"{name}.zip"):
            if release.exists():
                return release
    places = ", ".join(str(place.absolute()) for place in _places())
    hint = f"{MOVIELENS[name].hint} as {name}.zip and put it into one of these folders: {places}; or name its place as data.path"
    raise InputError([Fault("the release must be on this machine", field="data.release", value=name, hint=hint)])


def find_local() -> Path | None:
    """The zip or folder of `ml-latest-small` in a known location; None if not found.

    Raises:
        InputError: the zip that was found isn't the published one.
    """
    for place in _places():
        if (place / "ml-latest-small").is_dir():
            return place / "ml-latest-small"
        archive = place / "ml-latest-small.zip"
        if archive.is_file():
            if (checksum := hashlib.sha256(archive.read_bytes()).hexdigest()) != SHA256:
                rule = f"the file must be the published one, with SHA-256 {SHA256}"
                hint = "remove it to have it fetched again, or name it as data.path to use it as it is"
                raise InputError([Fault(rule, str(archive), value=checksum, hint=hint)])
            return archive
    return None


def _places() -> list[Path]:
    data_folder = path_in("RERANKER_DATA")
    return [*([data_folder] if data_folder else []), Path("data"), _PROJECT / "data", cache_folder()]


def _fetch(target: Path, searched: list[Path]) -> Path:
    places = ", ".join(str(place.absolute()) for place in searched)
    advice = (
        f"MovieLens (ml-latest-small) is not in {places}, and fetching {ADDRESS} failed: {{cause}}. Download it "
        "elsewhere and put the zip into one of these folders, or name its place as data.path"
    )
    try:
        with urllib.request.urlopen(ADDRESS, timeout=_TIMEOUT) as answer:
            data: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise EnvironmentFault(advice.format(cause=error)) from error
    if (checksum := hashlib.sha256(data).hexdigest()) != SHA256:
        raise EnvironmentFault(advice.format(cause=f"its SHA-256 is {checksum} and not {SHA256}"))
    try:
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            temporary = Path(scratch) / target.name
            temporary.write_bytes(data)
            os.replace(temporary, target)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {target}: {error}") from error
    return target


def _open(path: Path) -> tuple[_Layout, tuple[bytes, bytes]]:
    """The layout, and the content of its ratings and movies files."""
    if path.is_dir():
        inside = [file for file in (*path.glob("*"), *path.glob("*/*")) if file.is_file()]
        layout, folder = _release(path, [PurePosixPath(file.relative_to(path).as_posix()) for file in inside])
        return layout, ((path / folder / layout.ratings).read_bytes(), (path / folder / layout.movies).read_bytes())
    if not path.is_file():
        hint = f"looked for {path.absolute()}; {ANY_MOVIELENS.hint}, or leave it out to have ml-latest-small fetched"
        raise InputError(
            [Fault("the MovieLens folder or zip must exist", field="data.path", value=str(path), hint=hint)]
        )
    try:
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(name): name for name in archive.namelist()}
            layout, folder = _release(path, members)
            ratings, movies = (_member(archive, members[folder / name]) for name in (layout.ratings, layout.movies))
            return layout, (ratings, movies)
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        struct.error,
        UnicodeDecodeError,
        NotImplementedError,
    ) as error:
        with path.open("rb") as file:
            head = file.read(64)
        hint = str(error) if zipfile.is_zipfile(path) else what_it_is(head) or str(error)
        raise InputError([Fault("the file must be a whole zip", str(path), hint=hint)]) from error


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of one file; the size that the zip claims is checked first, and unpacking stops there."""
    facts = archive.getinfo(name)
    rule, hint = "", ""
    if facts.flag_bits & 1:
        rule = "a zip must not be encrypted; unpack it and name the folder"
    elif facts.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        rule = (
            f"a zip's files must be deflated, this one is packed by method {facts.compress_type}; "
            "unpack it and name the folder"
        )
    elif facts.file_size > UNPACKED_BYTES.most:
        rule, hint = UNPACKED_BYTES.rule("a zip's file"), UNPACKED_BYTES.hint
    elif facts.file_size > UNPACKED_TIMES.most * max(facts.compress_size, 1 << 16):
        rule, hint = UNPACKED_TIMES.rule("a zip's file"), UNPACKED_TIMES.hint
    if rule:
        value = facts.file_size if hint else None
        raise InputError([Fault(rule, str(archive.filename), field=name, value=value, hint=hint)])
    try:
        return archive.read(name)
    except OSError as error:
        raise zipfile.BadZipFile(str(error)) from error


def _release(path: Path, files: Collection[PurePosixPath]) -> tuple[_Layout, PurePosixPath]:
    """The layout of the only release in the folder or zip, and where in it both of its files are.

    Raises:
        InputError: there is none, or several stand beside each other.
    """
    found: dict[PurePosixPath, _Layout] = {}
    for layout in _LAYOUTS:
        for file in files:
            if file.name == layout.ratings and file.with_name(layout.movies) in files:
                found.setdefault(file.parent, layout)
    outermost = min((len(folder.parts) for folder in found), default=0)
    releases = sorted(folder for folder in found if len(folder.parts) == outermost)
    if not releases:
        pairs = " or ".join(f"{layout.ratings} and {layout.movies}" for layout in _LAYOUTS)
        raise InputError([Fault(f"a MovieLens folder or zip must hold {pairs}", str(path), field="data.path")])
    if len(releases) > 1:
        rule = f"a MovieLens folder or zip must hold one release, and this has {', '.join(map(str, releases))}"
        raise InputError([Fault(rule, str(path), field="data.path", hint="name the folder of one")])
    return found[releases[0]], releases[0]


def _utf8(data: bytes) -> bytes:
    """Convert to UTF-8 if need be: the older sets are in Latin-1, except ml-10m."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data
