"""A cluster's nodes → what each has of what trials need, asked by a task on each; models are fetched there meanwhile."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from reranker.errors import EnvironmentFault, RerankerError, first_line
from reranker.modeling.checkpoints.model_files import resolve, revision_of
from reranker.modeling.memory.memory_estimate import GIB, DeviceMemory, device_memory
from reranker.storage.atomic_files import write_file

_LIBRARIES = ("torch", "transformers", "peft", "trl", "numpy")  # whose versions may change what is trained
_ANSWER_S = 30.0  # for a node's first process to start
_FETCH_S = 3600.0  # for a node to fetch the models
_TELL_S = 60.0


@dataclass(frozen=True)
class NodeFacts:
    """What one node has.

    Attributes:
        address: its IP address.
        is_here: whether the driver runs on it.
        memory: of the device that workers compute on there.
        disk_free: bytes where it keeps temporary files.
        versions: of Python and of the libraries that train.
        sees_runs: whether it sees the driver's folder of studies.
        revisions: of models of the Hub.
        trouble: why it can't train, as a clause; empty where it can.
    """

    address: str
    is_here: bool
    cpus: float
    gpus: float
    memory: DeviceMemory
    disk_free: float
    versions: dict[str, str] = field(default_factory=dict)
    sees_runs: bool = True
    revisions: dict[str, str] = field(default_factory=dict)
    trouble: str = ""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a joined cluster; none of a Ray that the search has started itself.

    Attributes:
        mark: a file beside the study, which a node that shares the driver's storage sees; None: there is one node.
    """

    facts: tuple[NodeFacts, ...] = ()
    mark: Path | None = None

    @property
    def share_storage(self) -> bool:
        """Whether every node sees the folder of studies."""
        return all(node.sees_runs for node in self.facts)

    @property
    def gpu_memory(self) -> DeviceMemory | None:
        """Of the smallest GPU of all nodes; None if none has one."""
        gpus = [node.memory for node in self.facts if node.memory.on_gpu]
        return min(gpus, key=lambda memory: memory.total, default=None)

    def check(self) -> None:
        """
        Raises:
            EnvironmentFault: a node can't train, or trains with other versions or weights than the others.
        """
        for node in self.facts:
            if node.trouble:
                raise EnvironmentFault(f"node {node.address} can't train: {node.trouble}")
        for what, values in (
            *((name, [node.versions[name] for node in self.facts]) for name in _LIBRARIES),
            *((model, [node.revisions[model] for node in self.facts]) for model in _models(self.facts)),
        ):
            if len(set(values)) > 1:
                listed = ", ".join(f"{value} on {node.address}" for node, value in zip(self.facts, values, strict=True))
                raise EnvironmentFault(
                    f"all nodes must train with the same {what}, or trials can't be compared; there is {listed}"
                )

    def describe(self) -> str:
        """A line a node, and how folders of trials get back."""
        if not self.facts:
            return ""
        lines = [f"cluster: {len(self.facts)} node{'s' * (len(self.facts) > 1)}"]
        for node in self.facts:
            device = f"{node.gpus:g} × {node.memory.device}" if node.memory.on_gpu else "no GPU"
            lines.append(
                f"  {node.address}{' (here)' if node.is_here else ''}: {node.cpus:g} CPUs, {device}, "
                f"{node.memory.total / GIB:.0f} GiB, {node.disk_free / GIB:.0f} GiB of disk free, torch "
                f"{node.versions.get('torch', '?')}; "
                + ("sees the runs folder" if node.sees_runs else "has no access to the runs folder")
            )
        if not self.share_storage:
            lines.append(
                "  what trials write there is sent back at each report; workers of one trial stay on one node. Put --runs "
                "on storage that all nodes share to have training states kept between reports too"
            )
        return "\n".join(lines)


@contextmanager
def joined_nodes(
    joined: bool, runs: Path, models: Sequence[str], say: Callable[[str], None], *, gpus: int = 0
) -> Iterator[Nodes]:
    """What the nodes of the cluster have, all models fetched on each.

    Args:
        joined: whether the cluster is more than the search's own Ray, which has this machine's one node.
        runs: the folder that the study lies in.
        gpus: how many the cluster must have first, so that the nodes that bring them are asked too.

    Raises:
        EnvironmentFault: a node does not answer, can't train, or trains with something else than the others.
    """
    if not joined:
        yield Nodes()
        return
    if gpus:
        wait_for_gpus(gpus, say)
    mark = runs / f".reached-{uuid.uuid4().hex}"
    write_file(mark, "A node of the cluster that sees this file shares the storage of the search.\n")
    try:
        say("asking each node what it has …")
        nodes = Nodes(tuple(_ask(mark, tuple(models), say)), mark)
        nodes.check()
        yield nodes
    finally:
        mark.unlink(missing_ok=True)


def wait_for_gpus(count: int, say: Callable[[str], None]) -> None:
    """Until the cluster has as many GPUs, however long that takes; an autoscaler, where there is one, is asked for them.

    What is asked for stays asked for when this process has ended, so it is taken back, and the nodes go when they are idle.
    """
    if _gpus() >= count:
        return
    from ray.autoscaler.sdk import request_resources  # takes 0.1 s, which no other search needs

    request_resources(bundles=[{"GPU": 1}] * count)
    try:
        told = -_TELL_S
        while (there := _gpus()) < count:
            if time.monotonic() - told >= _TELL_S:
                told = time.monotonic()
                say(f"waiting for GPUs: {there:g} of {count} are there (Ctrl-C ends it) …")
            time.sleep(1)
    finally:
        request_resources(bundles=[])


def _gpus() -> float:
    return float(ray.cluster_resources().get("GPU", 0))


def gone() -> set[str]:
    """The ids of the nodes that the cluster has had and lost."""
    return {node["NodeID"] for node in ray.nodes() if not node["Alive"]}


def _ask(mark: Path, models: tuple[str, ...], say: Callable[[str], None]) -> Iterator[NodeFacts]:
    here = ray.get_runtime_context().get_node_id()
    nodes = sorted((node for node in ray.nodes() if node["Alive"]), key=lambda node: node["NodeID"] != here)
    answers = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answers[node["NodeID"]] = _look.options(scheduling_strategy=place).remote(
            node["NodeManagerAddress"],
            node["NodeID"] == here,
            {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU")},
            mark,
            models,
        )
    for node in nodes:
        address, answer = node["NodeManagerAddress"], answers[node["NodeID"]]
        began = time.monotonic()
        while not ray.wait([answer], timeout=_ANSWER_S)[0]:
            if time.monotonic() - began > _FETCH_S:
                raise EnvironmentFault(f"node {address} of the cluster does not answer")
            say(f"waiting for {address}, which fetches {', '.join(models)} …")
        try:
            yield ray.get(answer)
        except ray.exceptions.RayTaskError as error:
            raise EnvironmentFault(f"node {address} can't train: {first_line(error.cause or error)}") from None
        except ray.exceptions.RayError as error:
            raise EnvironmentFault(f"node {address} of the cluster is gone: {first_line(error)}") from None


@ray.remote(num_cpus=0, max_retries=0, max_calls=1)  # type: ignore[untyped-decorator]
def _look(address: str, is_here: bool, has: dict[str, float], mark: Path, models: tuple[str, ...]) -> NodeFacts:
    versions = {"python": platform.python_version()}
    trouble, revisions = "", {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name], trouble = "none", trouble or f"it lacks the package {name}"
    for model in models:
        try:
            _fetch(model)
            revisions[model] = revision_of(model)
        except RerankerError as error:
            trouble = trouble or f"{model}: {error}"
    free = shutil.disk_usage(tempfile.gettempdir()).free
    return NodeFacts(
        address,
        is_here,
        has["CPU"],
        has["GPU"],
        device_memory(),
        float(free),
        versions,
        mark.exists(),
        revisions,
        trouble,
    )


def _fetch(model: str) -> None:
    """Have a model on this node, once however many ask: conversions and the Hub's cache have locks of their own."""
    place = resolve(model)
    if isinstance(place, str):
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(place, allow_patterns=["*.json", "*.safetensors*", "*.model", "*.jinja", "*.txt"])
        except Exception as error:  # the Hub's client has many of its own
            raise EnvironmentFault(f"the model can't be fetched there ({first_line(error)})") from error


def _models(facts: Sequence[NodeFacts]) -> list[str]:
    return sorted(set.intersection(*(set(node.revisions) for node in facts))) if facts else []
