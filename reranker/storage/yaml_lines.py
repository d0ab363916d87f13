"""YAML text → plain values, each with its place, so that a fault can name its file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reranker.errors import Fault, InputError, nearest

Location = tuple[str | int, ...]  # keys and positions from the top of the file

_MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000  # in a file, with aliases expanded
_INT = re.compile(r"[-+]?\d{1,18}")  # longer ones exceed any knob and are read as floats
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")  # includes 1e-5, which plain YAML reads as text
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Document:
    """The values of a file, the (file, line) of each location, and the faults found while reading, in order."""

    values: Any = None
    places: dict[Location, tuple[str, int | None]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def fault(self, location: Location, rule: str, value: object = None, hint: str = "") -> Fault:
        """A fault at a location; its file and line are those of the nearest enclosing location in the file."""
        place = next((location[:n] for n in range(len(location), -1, -1) if location[:n] in self.places), ())
        file, line = self.places[place]
        return Fault(rule, file, line, ".".join(str(part) for part in location), value, hint)


def read(path: Path, kind: str = "study file", content: str = "the sections study, data and space") -> Document:
    """Read a user's file.

    Args:
        kind: what faults call the file.
        content: what faults say the mapping must contain.

    Raises:
        InputError: the file is missing, too large, not text, or not YAML. Other faults go into `Document.faults`.
    """
    name = str(path)
    try:
        text = _text(path, kind)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise InputError([Fault("brackets are nested too deeply", name)]) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        rule = f"not YAML: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
        raise InputError([Fault(rule, name, mark.line + 1 if mark else None)]) from None
    document = Document(places={(): (name, 1)})
    if not isinstance(node, yaml.MappingNode):
        raise InputError([Fault(f"a {kind} must be a mapping with {content}", name, 1)])
    document.values = _value(node, (), document, name, frozenset())
    return document


def from_mapping(values: Mapping[str, Any], name: str = "the study") -> Document:
    """Values from Python as `read` would give them from a file; faults cite `name`.

    Raises:
        InputError: they are nested too deeply, or are too many.
    """
    try:
        node = yaml.compose(json.dumps(values, default=str), Loader=yaml.SafeLoader)
    except (RecursionError, ValueError):
        raise InputError([Fault("brackets are nested too deeply", name)]) from None
    assert node is not None
    document = Document(places={(): (name, None)})
    document.values = _value(node, (), document, name, frozenset())
    document.places = dict.fromkeys(document.places, (name, None))
    return document


def dump(values: dict[str, Any]) -> str:
    """YAML that `read` reads back as the same values, in the same order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _text(path: Path, kind: str) -> str:
    name = str(path)
    try:
        if not path.is_file():
            rule = f"a {kind} must be a file, not a folder" if path.is_dir() else f"there is no such {kind}"
            siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            raise InputError([Fault(rule, name, hint=nearest(name, siblings) if siblings else "")])
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError([Fault(f"a {kind} must have at most {_MOST_BYTES:,} bytes", name, value=size)])
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError([Fault(f"a {kind} must be UTF-8 text; byte {error.start} is not", name)]) from None
    except PermissionError:
        raise InputError([Fault(f"no permission to read this {kind}", name)]) from None
    except OSError as error:
        raise InputError([Fault(f"this {kind} cannot be read: {error.strerror}", name)]) from None


def override(document: Document, location: Location, text: str, source: str) -> None:
    """Put a value from the command line, parsed as YAML, at a location; faults cite `source`."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        document.faults.append(Fault("not a value", source, value=text))
        return
    put(document, location, None, source)
    if node is not None:
        _parent(document, location)[location[-1]] = _value(node, location, document, source, frozenset())


def put(document: Document, location: Location, value: Any, source: str) -> None:
    """Put a value at a location as it is; faults cite `source`."""
    target = document.values
    for depth, part in enumerate(location[:-1], start=1):
        if not isinstance(target.get(part), dict):
            target[part] = {}
            document.places[location[:depth]] = (source, None)
        target = target[part]
    for replaced in [place for place in document.places if place[: len(location)] == location]:
        del document.places[replaced]
    document.places[location] = (source, None)
    target[location[-1]] = value


def _parent(document: Document, location: Location) -> Any:
    target = document.values
    for part in location[:-1]:
        target = target[part]
    return target


def _value(node: yaml.Node, at: Location, document: Document, file: str, above: frozenset[int]) -> Any:
    if len(document.places) >= _MOST_VALUES:
        rule = f"a file must hold at most {_MOST_VALUES:,} values, its aliases written out"
        raise InputError([Fault(rule, file, field=str(at[0]) if at else "")])
    document.places[at] = (file, node.start_mark.line + 1 if not file.startswith("--") else None)
    if id(node) in above:
        document.faults.append(document.fault(at, "an alias must not contain itself"))
        return None
    if isinstance(node, yaml.ScalarNode) and not _is_unicode(node.value):
        document.faults.append(document.fault(at, "text must not hold half a surrogate pair"))
        return None
    if not node.tag.startswith("tag:yaml.org,2002:"):
        document.faults.append(document.fault(at, "tags are not understood here", node.tag))
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        return {key: _value(child, (*at, key), document, file, above) for key, child in _pairs(node, at, document)}
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*at, i), document, file, above) for i, child in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return node.value if node.style in ("'", '"', "|", ">") else _scalar(node.value)


def _pairs(node: yaml.MappingNode, at: Location, document: Document) -> Iterator[tuple[str, yaml.Node]]:
    seen: dict[str, int] = {}
    for key_node, child in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or not _is_unicode(key):
            document.faults.append(
                Fault("a key must be plain text", document.places[at][0], line, ".".join(str(part) for part in at))
            )
            continue
        if key in seen:
            file = document.places[at][0]
            field_name = ".".join(str(part) for part in (*at, key))
            document.faults.append(
                Fault(f"a key must stand once; it stands in line {seen[key]} too", file, line, field_name)
            )
        seen[key] = line
        yield key, child


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode the text, which YAML does not guarantee."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _scalar(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Dumper(yaml.SafeDumper):
    """Quotes text such as 12e3, which `read` takes as a number but plain YAML does not."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?[\d.]+[eE][-+]?\d+"), list("-+.0123456789"))
