"""What nodes have is told, and nodes that would train something else are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from reranker.modeling.memory.memory_estimate import GIB, DeviceMemory
from tune.cluster import node_check
from tune.cluster.node_check import NodeFacts, Nodes

VERSIONS = {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "peft": "0.20", "trl": "1.0", "numpy": "2"}
HERE = NodeFacts(
    "10.0.0.1", True, 8, 0, DeviceMemory("this machine's memory", 32 * GIB, 20 * GIB, on_gpu=False), 50 * GIB,
    VERSIONS, revisions={"qwen3-0.6b": "aa"},
)  # fmt: skip
GPU = replace(
    HERE, address="10.0.0.2", is_here=False, gpus=4, memory=DeviceMemory("L4", 24 * GIB, 23 * GIB, on_gpu=True)
)


def test_a_line_a_node_says_what_it_has():
    assert Nodes((HERE, GPU), Path("mark")).describe().splitlines() == [
        "cluster: 2 nodes",
        "  10.0.0.1 (here): 8 CPUs, no GPU, 32 GiB, 50 GiB of disk free, torch 2.13.0; sees the runs folder",
        "  10.0.0.2: 8 CPUs, 4 × L4, 24 GiB, 50 GiB of disk free, torch 2.13.0; sees the runs folder",
    ]


def test_that_storage_is_not_shared_is_told_with_what_follows():
    nodes = Nodes((HERE, replace(GPU, sees_runs=False)), Path("mark"))
    assert not nodes.share_storage
    assert "workers of one trial stay on one node" in nodes.describe()


def test_the_smallest_gpu_of_all_nodes_is_what_a_model_must_fit():
    large = replace(GPU, memory=DeviceMemory("H100", 80 * GIB, 79 * GIB, on_gpu=True))
    memory = Nodes((HERE, large, GPU)).gpu_memory
    assert memory is not None
    assert memory.device == "L4"


@pytest.mark.parametrize(
    ("node", "told"),
    [
        (
            replace(GPU, versions=VERSIONS | {"torch": "2.12.0"}),
            "the same torch.*2.13.0 on 10.0.0.1, 2.12.0 on 10.0.0.2",
        ),
        (replace(GPU, revisions={"qwen3-0.6b": "bb"}), "the same qwen3-0.6b.*aa on 10.0.0.1, bb on 10.0.0.2"),
        (replace(GPU, trouble="it lacks the package trl"), "node 10.0.0.2 can't train: it lacks the package trl"),
    ],
    ids=["another torch", "another revision", "no trl"],
)
def test_a_node_that_would_train_something_else_is_refused(node, told):
    with pytest.raises(EnvironmentFault, match=told):
        Nodes((HERE, node)).check()


def test_nodes_that_are_alike_are_taken():
    Nodes((HERE, GPU)).check()


def test_a_ray_of_the_search_s_own_has_nothing_to_tell():
    assert (Nodes().describe(), Nodes().share_storage, Nodes().mark) == ("", True, None)


def cluster_whose_gpus_come(monkeypatch, *counts: int) -> list[list[dict[str, float]]]:
    """A cluster that has as many GPUs each time it is asked; what an autoscaler is asked for."""
    answers, asked = iter(counts), []
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": float(next(answers))})
    monkeypatch.setattr("ray.autoscaler.sdk.request_resources", lambda *, bundles: asked.append(bundles))
    monkeypatch.setattr("time.sleep", lambda _: None)
    return asked


def test_gpus_that_are_waited_for_are_asked_for_and_then_no_more(monkeypatch):
    asked = cluster_whose_gpus_come(monkeypatch, 0, 0, 1, 2)
    told: list[str] = []
    node_check.wait_for_gpus(2, told.append)
    assert asked == [[{"GPU": 1}, {"GPU": 1}], []]
    assert told == ["waiting for GPUs: 0 of 2 are there (Ctrl-C ends it) …"]


def test_gpus_that_are_there_are_not_asked_for(monkeypatch):
    asked = cluster_whose_gpus_come(monkeypatch, 4)
    node_check.wait_for_gpus(4, pytest.fail)
    assert asked == []


def test_who_stops_waiting_leaves_nothing_asked_for(monkeypatch):
    asked = cluster_whose_gpus_come(monkeypatch, 0, 0)

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node_check.wait_for_gpus(1, interrupt)
    assert asked == [[{"GPU": 1}], []]
