"""What is told of a device that cannot be used, is used by others, or is too small, before a search starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from reranker.errors import EnvironmentFault, InputError
from reranker.modeling.memory.memory_estimate import GIB, DeviceMemory, device_memory, gpu_memory
from tune.study_file.memory_plan import check_device, describe_memory, gpu_part
from tune.study_file.preflight import ModelCheck, check_models
from tune.study_file.study import Study
from tune.study_file.worker_device import check_mps, describe_compute


def study_of(model: str = "demo-tiny", **resources) -> Study:
    return Study.load(
        {
            "study": {"name": "device", "trials": 2},
            "data": {"source": "demo"},
            "resources": resources,
            "fixed": {"model": model},
            "space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
        }
    )


def checks_of(study: Study) -> list[ModelCheck]:
    return [ModelCheck(study.base(), longest=500, here=True)]


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """A program that answers as NVIDIA's does, of one card with 24 GiB."""

    def answers(free_mib: int, name: str = "NVIDIA L4", capability: float = 8.9) -> None:
        lines = f"{name}, 24576, {free_mib}, {capability}"
        program = Path(tmp_path / "nvidia-smi")
        program.write_text(f"#!/bin/sh\ncat <<EOF\n{lines}\nEOF\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    answers(24000)
    return answers


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_this_torch_was_not_built_for_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    study = study_of()
    with pytest.raises(EnvironmentFault, match=r"a GPU here \(NVIDIA L4\), and torch .* was built without CUDA"):
        check_device(study, checks_of(study))


@pytest.mark.usefixtures("driver")
def test_a_driver_that_is_too_old_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.9")
    study = study_of()
    with pytest.raises(EnvironmentFault, match=r"cannot use it; its driver may be too old for CUDA 12.9"):
        check_device(study, checks_of(study))


@pytest.mark.usefixtures("driver")
def test_the_multi_process_service_is_refused_where_it_cannot_be_started():
    study = study_of(cuda_mps=True)
    with pytest.raises(
        InputError, match=r"resources.cuda_mps: must be false on a cluster; start its daemon on the nodes"
    ):
        check_mps(study, None)
    with pytest.raises(EnvironmentFault, match=r"resources.cuda_mps needs nvidia-cuda-mps-control, which comes with"):
        check_mps(study, gpu_memory())
    on_cpu = study_of(cuda_mps=True, gpus_per_trial=0)
    with pytest.raises(InputError, match=r"resources.cuda_mps: must be false where trials train on a CPU"):
        check_device(on_cpu, checks_of(on_cpu))


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_is_not_asked_for_is_left_alone():
    study = study_of(gpus_per_trial=0)
    check_device(study, checks_of(study))
    assert describe_compute(study).startswith("compute: CPU")
    assert describe_memory(study, checks_of(study))[0].startswith(
        "memory of a worker, estimated (this machine's memory"
    )


@pytest.mark.parametrize("hidden", ["", "-1"])
@pytest.mark.usefixtures("driver")
def test_a_gpu_that_is_hidden_is_none(monkeypatch, hidden):
    assert gpu_memory() is not None
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert gpu_memory() is None
    assert not device_memory().on_gpu


def test_what_others_use_of_a_gpu_is_not_there(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver(2048)
    memory = device_memory()
    assert (memory.total / GIB, memory.free / GIB) == (24, 2)
    study = study_of("qwen3-4b")
    lines = describe_memory(study, checks_of(study))
    assert lines[0] == "memory of a worker, estimated (NVIDIA L4: 24.0 GiB, 22.0 of them used by others)"
    assert "DOES NOT FIT" in lines[1]
    with pytest.raises(InputError, match=r"a model must fit NVIDIA L4, 2.0 GiB; it needs \d+\.\d \(got 'qwen3-4b'\)"):
        check_device(study, checks_of(study))
    driver(24000)
    check_device(study, checks_of(study))


def test_a_model_that_no_gpu_holds_is_divided_among_workers(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver(12000)
    alone, four = study_of("qwen3-8b"), study_of("qwen3-8b", workers=4)
    with pytest.raises(InputError, match=r"or resources.workers on a GPU each, which divide the model's layers"):
        check_device(alone, checks_of(alone))
    check_device(four, checks_of(four))
    assert "divided" not in describe_memory(alone, checks_of(alone))[1]
    assert ", its layers divided among 4 workers" in describe_memory(four, checks_of(four))[1]


def test_on_a_cluster_its_smallest_gpu_counts_and_not_what_the_searching_machine_has():
    study, small = study_of("qwen3-4b"), DeviceMemory("NVIDIA L4", 2 * GIB, 2 * GIB, on_gpu=True, bf16=True)
    with pytest.raises(InputError, match=r"a model must fit NVIDIA L4, 2.0 GiB"):
        check_device(study, checks_of(study), small)
    large = DeviceMemory("NVIDIA H100", 80 * GIB, 80 * GIB, on_gpu=True, bf16=True)
    check_device(study, checks_of(study), large)
    assert gpu_part(study_of("qwen3-0.6b"), checks_of(study_of("qwen3-0.6b")), large) < 1


def test_a_share_of_a_gpu_is_what_a_worker_has(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    driver(24576)
    study = study_of("qwen3-4b", gpus_per_trial=0.25)
    with pytest.raises(InputError, match=r"a model must fit NVIDIA L4, 6.0 GiB"):
        check_device(study, checks_of(study))


def test_a_gpu_without_bf16_is_told_and_estimated_in_fp32(driver, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    study = study_of("qwen3-0.6b")
    with_bf16 = describe_memory(study, check_models(study, None, fetch=False))
    driver(24000, "Tesla T4", 7.5)
    assert "Tesla T4, 1 thread a worker, fp32, since this GPU has no bf16, label" in describe_compute(study)
    without = describe_memory(study, check_models(study, None, fetch=False))
    assert "1.11 weights" in with_bf16[1]
    assert "2.22 weights" in without[1]
