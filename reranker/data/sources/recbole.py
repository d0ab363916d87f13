"""RecBole's atomic files NAME.inter and NAME.item → the tables of interactions and items.

Their first line names each field with its type, `item_id:token`, and fields are separated by tabs.
"""

from __future__ import annotations

from pathlib import Path

from reranker.data.sources.origin import RECBOLE
from reranker.data.sources.reading.line_file import LineFile, separated_record
from reranker.data.sources.reading.streamed_tables import Imported, InteractionRows, ItemRows, RowFields, tables_of
from reranker.data_config import RecBoleData
from reranker.errors import EnvironmentFault, Fault, InputError, nearest
from reranker.item_text import ItemTemplate

_TYPES = ("token", "token_seq", "float", "float_seq")
_TITLES = ("title", "name", "movie_title", "item_name", "app_name", "product_title", "book_title", "track_name")


def read(config: RecBoleData) -> Imported:
    """Both tables; only items that someone touched, and only interactions with items that have a text.

    Raises:
        InputError: with the faults of both files: they are absent, lack a field, or have too many malformed lines.
        EnvironmentFault: a file may not be read.
    """
    interactions, items = (
        LineFile(path, separated_record((), "\t"), RECBOLE.hint, config.most_malformed, has_header=True)
        for path in _paths(config.path)
    )
    rows, texts = InteractionRows(), ItemRows(items)
    if interactions.is_there():
        names = _names(interactions)
        needed = [config.user_field, config.item_field, config.time_field]
        if _has(interactions, names, [*needed, *([config.rating_field] if config.min_rating is not None else [])]):
            fields = RowFields(
                config.user_field,
                config.item_field,
                config.time_field,
                rating=config.rating_field if config.rating_field in names else None,
            )
            fields.read(interactions, rows)
    if items.is_there() and (names := _names(items)):
        text = config.item_text or next((f"{{{name}}}" for name in _TITLES if name in names), None)
        if text is None:
            items.refuse("say what an item's text is made of", 1, "data.item_text", hint=f"fields: {', '.join(names)}")
        else:
            template = ItemTemplate.parse(text)
            if _has(items, names, [config.item_field, *template.fields]):
                texts.read(config.item_field, rows, template)
    return tables_of(rows, texts, interactions)


def _paths(path: Path) -> tuple[Path, Path]:
    """Of both files; a folder must hold one .inter file.

    Raises:
        InputError: it does not.
        EnvironmentFault: the folder may not be read.
    """
    if path.suffix == ".inter":
        return path, path.with_suffix(".item")
    try:
        inter_files = sorted(path.glob("*.inter"))
    except OSError as error:
        raise EnvironmentFault(f"cannot read {path}: {error.strerror or error}") from error
    named = path / f"{path.name}.inter"
    if len(inter_files) != 1 and named not in inter_files:
        rule = "the folder must hold one file NAME.inter, or the path be one"
        hint = (
            f"found {', '.join(file.name for file in inter_files)}"
            if inter_files
            else f"looked in {path.absolute()}; {RECBOLE.hint}"
        )
        raise InputError([Fault(rule, field="data.path", value=str(path), hint=hint)])
    inter = named if named in inter_files else inter_files[0]
    return inter, inter.with_suffix(".item")


def _names(file: LineFile) -> tuple[str, ...]:
    """The names of the fields without their types, by which lines are read from now on; empty after a fault."""
    header = file.first_line().lstrip("\ufeff").split("\t")
    untyped = [entry for entry in header if entry.rpartition(":")[2] not in _TYPES]
    if untyped:
        rule = f"the first line must name each field with its type, such as item_id:token; types: {', '.join(_TYPES)}"
        file.refuse(rule, 1, value=untyped[0][:80])
        return ()
    names = tuple(entry.rpartition(":")[0] for entry in header)
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        file.refuse("a field must occur once", 1, repeated[0])
        return ()
    file.parse = separated_record(names, "\t")
    return names


def _has(file: LineFile, names: tuple[str, ...], needed: list[str]) -> bool:
    """Whether the file has the needed fields; a fault for each that it lacks."""
    missing = [name for name in dict.fromkeys(needed) if name not in names] if names else []
    for name in missing:
        file.refuse("the file must have this field", 1, name, hint=nearest(name, names))
    return bool(names) and not missing
