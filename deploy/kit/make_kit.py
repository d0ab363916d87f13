"""Wheels, base models and the project in parts that travel, for machines without a network.

    make kit ARGS="--device cuda --python 3.12 --models smollm2-135m qwen3-0.6b"

Writes `dist/kit/`: parts of a tar file, their checksums, and `install.sh`, which needs a Python of the same version and nothing
else. What the machine has already can be left out (`--without torch`); its environment then builds on the machine's own.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from huggingface_hub import constants, snapshot_download

from reranker.command_line.entry_point import Parser, last_net
from reranker.command_line.printable_text import say
from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.modeling.checkpoints.model_files import resolve, revision_of
from reranker.modeling.checkpoints.model_names import MODELS, is_hub_id

PROJECT = Path(__file__).resolve().parents[2]
_MIB = 2**20
_OF_CUDA = {"cuda", "nvidia", "triton"}  # what the names of packages that only torch's CUDA build needs begin with
_HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
_GLIBC = [*(f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)), "manylinux2014_x86_64", "manylinux1_x86_64"]


@last_net
def main(argv: Sequence[str] | None = None) -> int:
    """Make the kit."""
    parser = Parser(
        prog="deploy/kit/make_kit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="whose build of torch (%(default)s)")
    parser.add_argument("--python", default=_HERE, help="of the machine that it is for (%(default)s)")
    parser.add_argument("--models", nargs="*", default=[], metavar="NAME", help="base models, by name or Hub id")
    parser.add_argument("--without", nargs="*", default=[], metavar="PACKAGE", help="what the machine has already")
    parser.add_argument("--out", type=Path, default=PROJECT / "dist" / "kit", help="an empty or new folder (dist/kit)")
    parser.add_argument("--part-mib", type=int, default=57, help="most MiB of a part (%(default)s)")
    options = parser.parse_args(argv)
    faults = []
    if not re.fullmatch(r"3\.\d{1,2}", options.python):
        faults.append(Fault("must be a version such as 3.12", field="--python", value=options.python))
    if options.part_mib < 1:
        faults.append(Fault("must be at least 1", field="--part-mib", value=options.part_mib))
    if options.out.exists() and any(options.out.iterdir()):
        faults.append(Fault("must be empty or not there", field="--out", value=str(options.out)))
    if faults:
        raise InputError(faults)
    with tempfile.TemporaryDirectory(dir=_made(options.out.parent)) as scratch:
        content = Path(scratch)
        say("the project …")
        _pack_project(content)
        say("wheels …")
        _download(content / "wheels", options.device, options.python, {_plain(name) for name in options.without})
        for model in options.models:
            say(f"{model} …")
            _copy_model(model, content)
        say("parts …")
        parts = list(_write_parts(content, _made(options.out), options.part_mib * _MIB))
    environment = f"kit_python={options.python}\nkit_builds_on_the_machine={'yes' if options.without else 'no'}\n"
    (options.out / "kit.env").write_text(environment, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("install.sh"), options.out)
    listed = [*parts, options.out / "kit.env", options.out / "install.sh"]
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in listed)
    (options.out / "SHA256SUMS").write_text(sums, encoding="utf-8")
    size = sum(path.stat().st_size for path in options.out.iterdir()) / _MIB
    say(f"{options.out}: {size:,.0f} MiB in {len(parts)} parts; on the other machine: sh install.sh FOLDER")
    return 0


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _pack_project(content: Path) -> None:
    """Its wheel, and its files as git has them: search spaces, documentation, benches."""
    _pip("wheel", "--no-deps", "--wheel-dir", str(content / "wheels"), str(PROJECT))
    files = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, check=False)
    if files.returncode:
        raise EnvironmentFault(f"{PROJECT} must be a git checkout: {files.stderr.decode().strip()}")
    for name in filter(None, files.stdout.decode().split("\0")):
        if (PROJECT / name).is_file():
            _made((content / "project" / name).parent)
            shutil.copy(PROJECT / name, content / "project" / name)


def wanted(lock: str, without: set[str]) -> list[str]:
    """The entries of a lock but for the packages left out; torch takes with it what only a CUDA build of it needs."""

    def is_left_out(entry: str) -> bool:
        name = _plain(re.split(r"[=\[ ]", entry)[0])
        return name in without or ("torch" in without and name.partition("-")[0] in _OF_CUDA)

    return [entry for entry in re.split(r"\n(?=\S)", lock.strip()) if not is_left_out(entry)]


def _download(wheels: Path, device: str, python: str, without: set[str]) -> None:
    """Every package of the lock but those left out, by hash; for the CPU its build of torch besides."""
    entries = wanted((PROJECT / f"requirements-{device}.txt").read_text(encoding="utf-8"), without)
    options = ["--no-deps", "--only-binary=:all:", "--dest", str(wheels)]
    if python != _HERE:
        tag = f"cp{python.replace('.', '')}"
        platforms = [word for name in _GLIBC for word in ("--platform", name)]
        options += [
            "--python-version",
            python,
            "--implementation",
            "cp",
            "--abi",
            tag,
            "--abi",
            "abi3",
            "--abi",
            "none",
        ]
        options += platforms
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("\n".join(entries) + "\n")
        file.flush()
        _pip("download", "--require-hashes", "--requirement", file.name, *options)
    if device == "cpu" and "torch" not in without:
        version = re.search(r"^torch==(\S+)", (PROJECT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
        assert version is not None
        _pip("download", f"torch=={version[1]}+cpu", *options)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise EnvironmentFault(f"pip {arguments[0]} failed: {reason[-1] if reason else 'it says nothing'}")


def _plain(name: str) -> str:
    """A package's name in the form that compares. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).strip().lower()


def _copy_model(model: str, content: Path) -> None:
    """What the other machine will find in its cache: our converted folder, or the Hub's own."""
    if model not in MODELS and not is_hub_id(model):
        raise InputError(
            [Fault("must be a name of ours or a Hub id; a folder is copied by hand", field="--models", value=model)]
        )
    place, hub = resolve(model), MODELS[model].hub if model in MODELS else model
    if isinstance(place, Path) and not revision_of(model):
        if place.is_relative_to(PROJECT):  # a demo base, which the wheel has
            return
        shutil.copytree(place, content / "models" / place.name)
        return
    assert hub is not None
    try:
        if not revision_of(model):
            snapshot_download(hub)
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{hub} can't be fetched: {first_line(error)}") from error
    stored = f"models--{hub.replace('/', '--')}"
    shutil.copytree(Path(constants.HF_HUB_CACHE) / stored, content / "hub" / stored, symlinks=True)


def _write_parts(content: Path, out: Path, size: int) -> Iterator[Path]:
    """The content as one tar file, cut; `cat kit.tar.*` joins it."""
    cut = _Parts(out, size)
    with tarfile.open(fileobj=cast(IO[bytes], cut), mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(content.iterdir()):
            tar.add(path, arcname=path.name)
    cut.close()
    yield from cut.parts


class _Parts:
    """A file to write to that is several, none larger than `size`."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size, self._left = folder, size, 0
        self._file: IO[bytes] | None = None
        self.parts: list[Path] = []

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            if self._left == 0:
                self.close()
                self.parts.append(self._folder / f"kit.tar.{len(self.parts):03d}")
                self._file, self._left = self.parts[-1].open("wb"), self._size
            assert self._file is not None
            taken = rest[: self._left]
            self._file.write(taken)
            self._left -= len(taken)
            rest = rest[len(taken) :]
        return len(data)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


if __name__ == "__main__":
    sys.exit(main())
