"""An address → the folder there: its files listed, read, written and removed, and what fails in one sentence.

Credentials are found as pyarrow finds them, in the environment or where the store's own commands keep them; nothing here
reads, keeps or shows them.
"""

from __future__ import annotations

import atexit
import contextlib
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow as pa
from pyarrow import fs

from reranker.command_line.redaction import masked
from reranker.errors import EnvironmentFault, first_line
from reranker.storage.atomic_files import write_file
from tune.study_file.copy_address import child_address

T = TypeVar("T")
_CHUNK = 2**23  # bytes
_ANSWER_S = 60.0  # that a store may take to answer before a search
_WHOLE = ("s3", "gcs", "abfs")  # there a file appears when it is closed; elsewhere it is renamed into its place
_AWS = re.compile(r"AWS Error (?P<kind>[A-Z_]+) during \w+ operation: (?P<what>.*?)(?: \(Request ID.*)?$")
_CREDENTIALS = (
    "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from where the aws command keeps them"
)
_FAULTS = (OSError, ValueError, NotImplementedError, pa.ArrowException)


class StoreFault(EnvironmentFault):
    """A store can't be reached, or refuses what is asked of it."""


@dataclass(frozen=True)
class RemoteFolder:
    """
    Attributes:
        address: for people too; holds no secret.
        files: the file system of pyarrow's that it is on.
        path: of the folder, as `files` has it.
    """

    address: str
    files: Any
    path: str

    @staticmethod
    def at(address: str) -> RemoteFolder:
        """The folder, whether it is there or not.

        Args:
            address: of `tune.study_file.copy_address.checked_address`.

        Raises:
            StoreFault: pyarrow does not take the address, or its store can't be found.
        """
        try:
            files, path = fs.FileSystem.from_uri(_with_options(address))
        except _FAULTS as error:
            raise StoreFault(f"{address} can't be used: {why(error)}") from error
        return RemoteFolder(address, files, path.rstrip("/"))

    def __str__(self) -> str:
        return masked(self.address)

    def child(self, name: str) -> RemoteFolder:
        """The folder of this name in it."""
        return RemoteFolder(child_address(self.address, name), self.files, f"{self.path}/{name}")

    def check(self, seconds: float = _ANSWER_S) -> None:
        """Write a small file, look for it, and remove it.

        Raises:
            StoreFault: one of them fails, or takes longer.
        """
        name = f".probe-{uuid.uuid4().hex}"

        def probe() -> None:
            self.write_bytes(name, b"a search will keep a copy here\n")
            try:
                found = self.listing(deep=False)
            finally:
                self.remove(name)
            if name not in found:
                raise StoreFault("what was written is not listed")

        try:
            _within(seconds, probe)
        except TimeoutError:
            let_exit()
            raise StoreFault(f"{self} can't be used: it did not answer within {seconds:.0f} s") from None
        except StoreFault as fault:
            raise StoreFault(f"{self} can't be used: {str(fault).replace(name, '.probe')}") from fault

    def listing(self, *, deep: bool = True) -> dict[str, int]:
        """The bytes of each file, by its path in the folder; empty where there is no folder.

        Raises:
            StoreFault: it can't be listed.
        """
        start, found = f"{self.path}/", self._infos(deep=deep)
        return {one.path.removeprefix(start): one.size for one in found if one.type == fs.FileType.File}

    def _infos(self, *, deep: bool) -> list[Any]:
        try:
            return list(self.files.get_file_info(fs.FileSelector(self.path, recursive=deep, allow_not_found=True)))
        except _FAULTS as error:
            raise StoreFault(f"cannot list it: {why(error)}") from error

    def exists(self) -> bool:
        """Whether anything is in it.

        Raises:
            StoreFault: it can't be listed.
        """
        return bool(self._infos(deep=False))

    def folders(self) -> list[str]:
        """The names of the folders that are right in it.

        Raises:
            StoreFault: it can't be listed.
        """
        return sorted(one.base_name for one in self._infos(deep=False) if one.type == fs.FileType.Directory)

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is no such file.

        Raises:
            StoreFault: it can't be read.
        """
        try:
            with self.files.open_input_stream(f"{self.path}/{name}") as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            return None
        except _FAULTS as error:
            raise StoreFault(f"cannot read {name}: {why(error)}") from error

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file here, whole or not at all.

        Raises:
            StoreFault: it can't be read.
            EnvironmentFault: it can't be written here.
        """
        content = self.read(name)
        if content is None:
            raise StoreFault(f"cannot read {name}: it is not there any more")
        write_file(target, content)

    def write(self, name: str, source: BinaryIO) -> None:
        """Replace a file by what is left to read of `source`; the old content stays until the new one is whole.

        Raises:
            StoreFault: it can't be written.
        """
        if self.files.type_name == "local":
            self.write_bytes(name, source.read())
            return
        self._write(name, lambda stream: shutil.copyfileobj(source, stream, _CHUNK))

    def write_bytes(self, name: str, content: bytes) -> None:
        """See `write`."""
        if self.files.type_name == "local":
            try:
                write_file(Path(self.path) / name, content)  # private, as the study's own files are
            except EnvironmentFault as fault:
                raise StoreFault(str(fault)) from fault
            return
        self._write(name, lambda stream: stream.write(content))

    def _write(self, name: str, fill: Callable[[Any], object]) -> None:
        path = f"{self.path}/{name}"
        renames = self.files.type_name not in _WHOLE
        place = f"{path}.{uuid.uuid4().hex}.tmp" if renames else path
        try:
            if renames:
                self.files.create_dir(path.rpartition("/")[0], recursive=True)
            with self.files.open_output_stream(place) as stream:
                fill(stream)
            if renames:
                self.files.move(place, path)
        except _FAULTS as error:
            raise StoreFault(f"cannot write {name}: {why(error)}") from error

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StoreFault: it can't be removed.
        """
        try:
            self.files.delete_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return
        except _FAULTS as error:
            raise StoreFault(f"cannot remove {name}: {why(error)}") from error


def why(error: BaseException) -> str:
    """What pyarrow says, as a clause without secrets; what to do about it where that is known.

    >>> why(OSError("When …: AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: …"))
    'there is no such bucket'
    """
    text = masked(first_line(error))
    match = _AWS.search(text)
    if match is None:
        return text
    kind, what = match["kind"], match["what"].strip().rstrip(".")
    if kind == "NETWORK_CONNECTION":
        return f"nothing answers there ({what.partition('; Details: ')[2] or what})"
    if kind == "NO_SUCH_BUCKET":
        return "there is no such bucket"
    if kind in ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "UNRECOGNIZED_CLIENT"):
        return f"it does not take these credentials ({what}); {_CREDENTIALS}"
    return f"{what} ({kind})"


def let_exit() -> None:
    """While a request to S3 hangs: this process may end all the same. pyarrow would wait for it, for many minutes."""
    with contextlib.suppress(AttributeError):  # a pyarrow without S3
        atexit.unregister(fs.ensure_s3_finalized)


def _with_options(address: str) -> str:
    """With what spares two of three requests for a small file."""
    if not address.startswith("s3://") or "allow_delayed_open" in address:
        return address
    return f"{address}{'&' if '?' in address else '?'}allow_delayed_open=true"


def _within(seconds: float, act: Callable[[], T]) -> T:
    """What `act` gives or raises; it is left behind where it takes longer.

    Raises:
        TimeoutError: it does.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:  # noqa: BLE001, it is raised below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]
