"""YAML text → plain values, each with its place, so that a fault can name its file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from reranker.errors import Fault, InputError, nearest
from reranker.storage.file_kinds import what_it_is
from reranker.storage.limits import STUDY_FILE_BYTES, STUDY_FILE_DEPTH, STUDY_FILE_VALUES

Location = tuple[str | int, ...]  # keys and positions from the top of the file

_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp", "map", "seq", "value", "merge"))  # fmt: skip
_MISTAKES = {  # what PyYAML says, in part → the rule
    "found character '\\t'": "lines must be indented by spaces, not by tabs",
    "mapping values are not allowed here": "a value with a colon in it must be in quotes, and each key on a line of its own",
    "but found '<block mapping start>'": "the keys of a mapping must be indented alike",
    "but found '<block sequence start>'": "the entries of a list must be indented alike",
    "second occurrence": "an anchor must stand once",
    "but found another document": "the file must be one document; --- begins another",
    "found unexpected end of stream": "a quote must be closed",
}
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
    text = _text(path, kind)
    try:
        node = _compose(text)
    except _TooMuch as error:
        raise InputError([replace(error.fault, file=name)]) from None
    except yaml.YAMLError as error:
        rule, line = _mistake(error, text)
        raise InputError([Fault(f"not YAML: {rule}", name, line, hint=what_it_is(text[:64].encode()))]) from None
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
        node = _compose(json.dumps(values, default=str))
    except _TooMuch as error:
        raise InputError([replace(error.fault, file=name)]) from None
    except (RecursionError, ValueError):  # of json, which knows cycles
        raise InputError([_too_deep(name)]) from None
    assert node is not None
    document = Document(places={(): (name, None)})
    document.values = _value(node, (), document, name, frozenset())
    document.places = dict.fromkeys(document.places, (name, None))
    return document


def dump(values: dict[str, Any]) -> str:
    """YAML that `read` reads back as the same values, in the same order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _TooMuch(Exception):
    """A limit that a file exceeds."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault


class _Loader(yaml.SafeLoader):
    """Composes no more nodes, and no deeper ones, than the limits allow. Letters that JSON writes as two halves, such as 😀,
    are joined, since JSON counts as YAML."""

    nodes = depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.nodes > 2 * self.most:  # a key and its value
            raise _TooMuch(_too_many())
        if self.depth > self.deepest:
            raise _TooMuch(_too_deep())
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if not _is_unicode(node.value):
            node.value = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return node

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.most, self.deepest = STUDY_FILE_VALUES.most, STUDY_FILE_DEPTH.most


def _compose(text: str) -> yaml.Node | None:
    """
    Raises:
        YAMLError: it is not YAML.
        _TooMuch: it exceeds a limit.
    """
    node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    return node


def _too_many(file: str = "", section: str = "") -> Fault:
    return Fault(STUDY_FILE_VALUES.rule("a file"), file, field=section, hint=STUDY_FILE_VALUES.hint)


def _too_deep(file: str = "") -> Fault:
    return Fault(STUDY_FILE_DEPTH.rule("a file"), file, hint=STUDY_FILE_DEPTH.hint)


def _mistake(error: yaml.YAMLError, text: str) -> tuple[str, int | None]:
    """What is wrong with a text that is not YAML, and in which line."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"text must hold no control characters, such as {error.character:#04x}", text.count(
            "\n", 0, error.position
        ) + 1
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    rule = next((rule for part, rule in _MISTAKES.items() if part in problem), problem)
    return rule.replace("<stream end>", "the end of the file"), mark.line + 1 if mark else None


def _text(path: Path, kind: str) -> str:
    name = str(path)
    try:
        if not path.is_file():
            rule = f"a {kind} must be a file, not a folder" if path.is_dir() else f"there is no such {kind}"
            siblings = [str(p) for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
            raise InputError([Fault(rule, name, hint=nearest(name, siblings) if siblings else "")])
        if (size := path.stat().st_size) > STUDY_FILE_BYTES.most:
            rule = STUDY_FILE_BYTES.rule(f"a {kind}")
            raise InputError([Fault(rule, name, value=size, hint=STUDY_FILE_BYTES.hint)])
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rule = f"a {kind} must be UTF-8 text; byte {error.start} is not"
        raise InputError([Fault(rule, name, hint=what_it_is(error.object))]) from None
    except PermissionError:
        raise InputError([Fault(f"no permission to read this {kind}", name)]) from None
    except OSError as error:
        raise InputError([Fault(f"this {kind} cannot be read: {error.strerror}", name)]) from None


def override(document: Document, location: Location, text: str, source: str) -> None:
    """Put a value from the command line, parsed as YAML, at a location; faults cite `source`."""
    try:
        node = _compose(text)
    except (yaml.YAMLError, _TooMuch):
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
    if len(document.places) >= STUDY_FILE_VALUES.most:
        raise InputError([_too_many(file, str(at[0]) if at else "")])
    if len(at) > STUDY_FILE_DEPTH.most:
        raise InputError([_too_deep(file)])
    document.places[at] = (file, node.start_mark.line + 1 if not file.startswith("--") else None)
    if id(node) in above:
        document.faults.append(document.fault(at, "an alias must not contain itself"))
        return None
    if isinstance(node, yaml.ScalarNode) and not _is_unicode(node.value):
        document.faults.append(document.fault(at, "text must not hold half a surrogate pair"))
        return None
    if node.tag not in _TAGS:
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
