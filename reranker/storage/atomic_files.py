"""The project's own files: written completely or not at all; a damaged one gives a one-sentence error.

Each format has a writer and a reader: plain text and bytes; JSON and YAML with a checksum; append-only lines of JSON,
each with a checksum; Parquet tables. Nothing else in the project opens a file of a study or trial.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import stat
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml

from reranker.errors import EnvironmentFault
from reranker.storage.file_permissions import file_mode, make_folder

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

Fields = Mapping[str, Callable[[Any], object]]  # what a file has at least: a field's name → what takes its value

_CHECKSUM = "checksum"
_YAML_MARK = "# checksum: "
_NO_TABLE = "is damaged: it is not a Parquet table"
_ADVICE = {
    errno.ENOSPC: "no space is left on the disk; what was written before is intact",
    errno.EDQUOT: "the disk quota is used up; what was written before is intact",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk does not work",
    errno.ESTALE: "the network file system has lost it",
    errno.ENAMETOOLONG: "the name is too long for this file system",
}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_DISK = (*FULL_DISK, errno.EIO, errno.EROFS, errno.ESTALE)
# How libraries report a full disk in their own exceptions: safetensors, pyarrow, and torch, which names no cause.
_FULL = ("os error 28", "no space left", "disk quota exceeded", "inline_container.cc", "database or disk is full")


class DamagedFile(EnvironmentFault):
    """One of our files is missing, cannot be read, or does not hold what was written.

    Args:
        path: the file.
        damage: what is wrong with it, as the end of the sentence "FILE …".
        remedy: what to do about it.
    """

    def __init__(self, path: Path | str, damage: str, remedy: str = "restore it from a copy") -> None:
        self.path, self.damage, self.remedy = Path(path), damage, remedy
        super().__init__(f"{path} {damage}; {remedy}")

    def __reduce__(self) -> tuple[type, tuple[Path, str, str]]:
        return type(self), (self.path, self.damage, self.remedy)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into one sentence that names the path and the cause.

    Raises:
        EnvironmentFault: the disk is full, read-only, or not writable for us. Its `errno` is the system's.
    """
    try:
        yield
    except EnvironmentFault:
        raise
    except OSError as error:
        raise _cannot_write(path, error.errno, str(error)) from error
    except Exception as error:
        if _tells_of_a_full_disk(error):
            raise _cannot_write(path, errno.ENOSPC, "") from error
        raise


def disk_fault(error: BaseException) -> str:
    """The disk's fault as a clause; empty if the exception has another cause."""
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        ours = isinstance(error, EnvironmentFault)
        return str(error) if ours else str(_cannot_write(error.filename or "a file", error.errno, str(error)))
    return _ADVICE[errno.ENOSPC] if _tells_of_a_full_disk(error) else ""


def _tells_of_a_full_disk(error: BaseException) -> bool:
    return any(mark in str(error).lower() for mark in _FULL)


def _cannot_write(path: Path | str, code: int | None, text: str) -> EnvironmentFault:
    fault = EnvironmentFault(f"cannot write {path}: {_ADVICE.get(code or 0, text)}")
    fault.errno = code
    return fault


def write_file(path: Path, content: str | bytes, *, secret: bool = False) -> None:
    """Replace a file's content atomically; the new content is on disk before it replaces the old.

    Args:
        secret: for this user alone, whomever the folder is shared with.

    Raises:
        EnvironmentFault: it cannot be written; the old content is untouched.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with writing(path):
        make_folder(path.parent)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            mode = 0o600 if secret else file_mode()
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: dict[str, Any], *, secret: bool = False) -> None:
    """Replace a file by an object with its checksum; `read_json` reads it. Else as `write_file`."""
    write_file(path, json.dumps(with_checksum(value), indent=2) + "\n", secret=secret)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Append one object with its checksum as a line: the complete line, or nothing.

    An incomplete line from an earlier write is cut off first. Several processes may append to a file.

    Raises:
        EnvironmentFault: it cannot be written; the lines before are untouched.
    """
    line = as_line(record).encode()
    with writing(path):
        make_folder(path.parent)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, file_mode()), "rb+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            end = cut_torn_line(file)
            try:
                written = 0
                while written < len(line):
                    written += file.write(line[written:])
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise


def as_line(record: dict[str, Any]) -> str:
    """The line that `append_line` adds."""
    return json.dumps(with_checksum(record)) + "\n"


def cut_torn_line(file: io.RawIOBase | io.BufferedRandom) -> int:
    """Cut off what follows the last newline of a file open for writing; returns its length, and seeks to its end."""
    end = file.seek(0, os.SEEK_END)
    complete, position = 0, end
    while position > 0 and not complete:
        start = max(0, position - 65_536)
        file.seek(start)
        complete = (start + newline + 1) if (newline := (file.read(position - start) or b"").rfind(b"\n")) >= 0 else 0
        position = start
    if complete < end:
        file.truncate(complete)
    return file.seek(complete)


def read_text(path: Path) -> str:
    """
    Raises:
        DamagedFile: it is missing, unreadable, or not UTF-8.
    """
    return _decoded(path, read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """
    Raises:
        DamagedFile: it is missing or unreadable.
    """
    try:
        if stat.S_ISFIFO(path.stat().st_mode):  # which would be waited for without end
            raise OSError(errno.EINVAL, "it is no file")
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedFile(path, "is missing") from None
    except PermissionError:
        raise DamagedFile(path, "cannot be read", "allow it, with chmod u+r") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise DamagedFile(path, f"cannot be read: {why}") from None


def read_json(path: Path, fields: Fields = MappingProxyType({})) -> dict[str, Any]:
    """What `write_json` wrote.

    Raises:
        DamagedFile: it is missing, unreadable, not what was written, or another file of ours, which lacks these fields.
    """
    return _with_fields(path, _unsealed(path, read_text(path), ""), fields, "")


def read_lines(path: Path, fields: Fields = MappingProxyType({})) -> list[dict[str, Any]]:
    """What `append_line` added, in order; empty if there is no file. A last line without its newline does not count.

    Raises:
        DamagedFile: it is unreadable, a line is not what was written, or is another file's, which lacks these fields.
    """
    if not path.exists():
        return []
    content = read_bytes(path)
    lines = _decoded(path, content[: content.rfind(b"\n") + 1]).split("\n")[:-1]
    places = [f" in line {number}" for number in range(1, len(lines) + 1)]
    return [
        _with_fields(path, _unsealed(path, line, where), fields, where)
        for line, where in zip(lines, places, strict=True)
    ]


def sound_lines(path: Path, fields: Fields = MappingProxyType({})) -> tuple[list[dict[str, Any]], int]:
    """Those lines of a damaged file that are what `append_line` added, with these fields, and how many are not."""
    sound: list[dict[str, Any]] = []
    lines = read_bytes(path).split(b"\n")
    for line in lines:
        with contextlib.suppress(DamagedFile):
            sound.append(_with_fields(path, _unsealed(path, _decoded(path, line), ""), fields, ""))
    return sound, sum(bool(line.strip()) for line in lines) - len(sound)


def write_yaml(path: Path, text: str) -> None:
    """Replace a file by YAML text, with its checksum in a comment."""
    write_file(path, f"{text}{_YAML_MARK}{_checksum({'text': text})}\n")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that `write_yaml` wrote; see `reranker.storage.yaml_lines` for a user's own files.

    Raises:
        DamagedFile: it is missing, unreadable, or not what was written.
    """
    mapping = yaml.safe_load(read_yaml_text(path))
    if not isinstance(mapping, dict):
        raise DamagedFile(path, "is damaged: it is not a mapping")
    return mapping


def read_yaml_text(path: Path) -> str:
    """The text that `write_yaml` got.

    Raises:
        DamagedFile: it is missing, unreadable, or not what was written.
    """
    text, mark, checksum = read_text(path).rpartition(_YAML_MARK)
    if not mark or checksum.strip() != _checksum({"text": text}):
        raise DamagedFile(path, "is damaged, or was edited by hand" if text or checksum else "is empty")
    return text


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Replace a file by a table, as Parquet with checksums."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, write_page_checksum=True)
    write_file(path, buffer.getvalue())


def read_table(path: Path, columns: Sequence[str], others: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """The given columns of what `write_table` wrote, and those of `others` that it has.

    Raises:
        DamagedFile: it is missing, unreadable, or not what was written.
    """
    import pyarrow as pa

    table = read_arrow_table(path, columns)
    try:
        return {name: table[name].to_numpy() for name in (*columns, *others) if name in table.column_names}
    except (ValueError, pa.ArrowException):
        raise DamagedFile(path, _NO_TABLE) from None


def read_arrow_table(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """What `write_table` wrote, with at least these columns. All of it is checked; none of it is made into Python's objects,
    which takes most of the time where there is text.

    Raises:
        DamagedFile: it is missing, unreadable, or not what was written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = read_bytes(path)
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        table = file.read(use_threads=False)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        raise DamagedFile(path, _NO_TABLE if content else "is empty") from None
    if missing := [name for name in columns if name not in table.column_names]:
        raise DamagedFile(path, f"is damaged: it lacks the column {missing[0]!r}")
    return table


def with_checksum(value: dict[str, Any]) -> dict[str, Any]:
    """The object with its checksum, for files that other programs read and write too."""
    return {**value, _CHECKSUM: _checksum(value)}


def without_checksum(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """The object as `with_checksum` had it; one without a checksum as it is.

    Raises:
        DamagedFile: it is not what was written.
    """
    rest = {name: part for name, part in value.items() if name != _CHECKSUM}
    if value.get(_CHECKSUM, _checksum(rest)) != _checksum(rest):
        raise DamagedFile(path, "is damaged: it is not what was written")
    return rest


def _checksum(value: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(value, sort_keys=True).encode()):08x}"


def _unsealed(path: Path, text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise DamagedFile(path, f"is damaged{where}: it is not JSON" if text.strip() else f"is empty{where}") from None
    if not isinstance(value, dict) or _CHECKSUM not in value:
        raise DamagedFile(path, f"is damaged{where}, or another program's: it has no checksum")
    if value.pop(_CHECKSUM) != _checksum(value):
        raise DamagedFile(path, f"is damaged{where}: it is not what was written")
    return value


def _with_fields(path: Path, value: dict[str, Any], fields: Fields, where: str) -> dict[str, Any]:
    for name, taken_by in fields.items():
        if name not in value:
            raise DamagedFile(path, f"is another file{where}: it lacks {name!r}")
        try:
            taken_by(value[name])
        except (ValueError, TypeError):
            raise DamagedFile(path, f"is damaged{where}: {name} is {value[name]!r}") from None
    return value


def _decoded(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DamagedFile(path, "is damaged: it is not text") from None


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, if the system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
