"""A study and this machine → the device that its workers compute on, and how."""

from __future__ import annotations

import os
import shutil

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.modeling.checkpoints.model_names import TOYS
from reranker.modeling.checkpoints.precision import in_bf16
from reranker.modeling.checkpoints.quantisation import check_quantiser
from reranker.modeling.memory.memory_estimate import DeviceMemory, device_memory, host_memory
from tune.study_file.dimensions import reach
from tune.study_file.study import Study

MPS_DAEMON = "nvidia-cuda-mps-control"
_MOST_CPUS = 4  # of a worker


def describe_compute(study: Study) -> str:
    """On what workers compute, and how."""
    memory = worker_memory(study)
    on_gpu = memory.on_gpu
    base, cpus = study.base(), cpus_per_worker(study, os.cpu_count() or 1, on_gpu=on_gpu)
    threads = f"{cpus} thread{'s' * (cpus > 1)} a worker"
    configs = [as_held(base.model_copy(update={"model": model}), memory) for model in study.models]
    bf16 = any(in_bf16(config, on_gpu=on_gpu) for config in configs)
    numbers = "a bf16 base under an fp32 adapter" if bf16 else "fp32"
    if on_gpu and not memory.bf16:
        numbers = (
            f"{numbers}, since this GPU has no bf16" if base.precision == "auto" else f"{numbers}, which it imitates"
        )
    where = memory.device if on_gpu else "CPU"
    compiled = "layers compiled" if base.compile_layers is True else "not compiled"
    if on_gpu and base.compile_layers == "auto":
        compiled = "layers compiled where it pays"
    return f"compute: {where}, {threads}, {numbers}, label logits in fp32, fused AdamW, torch's attention, {compiled}"


def cpus_per_worker(study: Study, cores: int, *, on_gpu: bool) -> int:
    """Each with a thread. `auto` shares out the machine's, but for a toy, which two threads slow down, and on a GPU.

    Args:
        cores: of the machine, or of a cluster's largest.
    """
    wanted = study.resources.cpus_per_worker
    if wanted != "auto":
        return wanted
    if on_gpu or set(study.models) <= set(TOYS):
        return 1
    return max(1, min(_MOST_CPUS, cores // (study.resources.workers * (study.settings.concurrency or 1))))


def check_quantisation(study: Study, memory: DeviceMemory) -> None:
    """
    Args:
        memory: of the device that workers compute on.

    Raises:
        InputError: a base may be quantised, and there is no GPU.
        EnvironmentFault: the package for it is missing.
    """
    if "nf4" not in reach("quantisation", study.fixed, study.dimensions):
        return
    if not memory.on_gpu:
        rule = "must be none where trials train on a CPU, which unpacks 4 bits at every step"
        raise InputError([Fault(rule, field="quantisation", value="nf4")])
    check_quantiser()


def check_compiling(study: Study, memory: DeviceMemory) -> None:
    """
    Raises:
        EnvironmentFault: layers may be compiled, and there is nothing to compile with.
    """
    if True in reach("compile_layers", study.fixed, study.dimensions):
        from reranker.modeling.compiled_layers import check_compiler  # takes seconds

        check_compiler(on_gpu=memory.on_gpu)


def check_mps(study: Study, memory: DeviceMemory | None) -> None:
    """
    Args:
        memory: of the device that workers compute on; None: of a cluster that was there before.

    Raises:
        InputError: the Multi-Process Service is wanted where this program can't start it.
        EnvironmentFault: its daemon is not installed.
    """
    if not study.resources.cuda_mps:
        return
    if memory is None or not memory.on_gpu:
        where = "where trials train on a CPU" if memory else "on a cluster; start its daemon on the nodes beforehand"
        raise InputError([Fault(f"must be false {where}", field="resources.cuda_mps", value=True)])
    if shutil.which(MPS_DAEMON) is None:
        raise EnvironmentFault(f"resources.cuda_mps needs {MPS_DAEMON}, which comes with NVIDIA's driver for Linux")


def check_gpu(name: str) -> None:
    """
    Raises:
        EnvironmentFault: torch can't use the GPU that the driver lists.
    """
    import torch

    if torch.cuda.is_available():
        return
    without = "or train on the CPU with --set resources.gpus_per_trial=0"
    if torch.version.cuda is None:
        raise EnvironmentFault(
            f"there is a GPU here ({name}), and torch {torch.__version__} was built without CUDA: install a torch for "
            f"CUDA (pip install -r requirements-cuda.txt), {without}"
        )
    raise EnvironmentFault(
        f"there is a GPU here ({name}), and torch {torch.__version__} cannot use it; its driver may be too old for CUDA "
        f"{torch.version.cuda}: update the driver, install a torch for an older CUDA, {without}"
    )


def worker_memory(study: Study) -> DeviceMemory:
    """Of the device that the study's workers compute on."""
    return host_memory() if study.resources.gpus_per_trial == 0 else device_memory()


def worker_capacity(study: Study, memory: DeviceMemory) -> float:
    """Bytes for a worker: a share of what is free on a GPU, or the host's."""
    gpus = study.resources.gpus_per_trial
    if not memory.on_gpu:
        return memory.total
    share = 1.0 if gpus == "auto" else min(1.0, gpus / study.resources.workers)
    return memory.free if share == 1 else min(memory.free, share * memory.total)


def as_held(config: TrialConfig, memory: DeviceMemory) -> TrialConfig:
    """With the precision that `auto` has on a GPU without bf16."""
    if config.precision != "auto" or not memory.on_gpu or memory.bf16:
        return config
    return config.model_copy(update={"precision": "fp32"})


def is_shared(memory: DeviceMemory) -> bool:
    """Whether other processes use much of it."""
    return memory.on_gpu and memory.free < 0.9 * memory.total
