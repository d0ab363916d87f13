"""Lists → one simple question about each: which label has this title? A model that can't answer it can't rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reranker.config import TrialConfig
from reranker.data.example import Example
from reranker.data.hash_random import random_bits
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import Probe, Scored
from reranker.modeling.checkpoints.model_names import keeps_own_skill
from reranker.modeling.process_group import of_all, worker_rank, workers
from reranker.prompting.prompts import FIND, PromptEncoder

_BEHIND_LISTS = 100  # probes at most, if lists come first
_ALONE = 50  # probes at most, if the question comes first, so that each probe computes its list again
_LIST, _TITLE = range(2)  # purposes of random numbers


def title_probes(catalogue: Catalogue, config: TrialConfig, examples: Sequence[Example]) -> list[Probe]:
    """Probes for some of the lists, each for one candidate; the same ones for all configurations.

    If several candidates have the title, each of them is right. No probes for a toy with its own skill, which was made
    for another question, nor pointwise, where there are no labels.
    """
    if config.scoring == "pointwise" or keeps_own_skill(config):
        return []
    users = np.array([example.user for example in examples], dtype=np.int64)
    most = _BEHIND_LISTS if config.prompt_order == "candidates_first" else _ALONE
    rows = np.sort(np.argsort(random_bits(_LIST, users), kind="stable")[:most]).tolist()
    titles = catalogue.titles(config.max_title_tokens).texts
    places = (random_bits(_TITLE, users) % np.uint64(config.candidates)).astype(np.int64).tolist()
    questions = [
        Example(examples[row].user, (examples[row].candidates[places[row]],), examples[row].candidates, places[row])
        for row in rows
    ]
    prompts = PromptEncoder(catalogue, config, FIND).encode(questions)
    probes = []
    for row, example, prompt in zip(rows, questions, prompts, strict=True):
        (item,) = example.history
        right = tuple(
            position for position, candidate in enumerate(example.candidates) if titles[candidate] == titles[item]
        )
        probes.append(Probe(row, prompt, right))
    return probes


def own_probes(probes: Sequence[Probe]) -> list[Probe]:
    """The probes of this worker, with rows in its share of the lists (every `workers()`-th)."""
    return [replace(probe, row=probe.row // workers()) for probe in probes if probe.row % workers() == worker_rank()]


def named_titles(mine: Scored) -> dict[str, float]:
    """`titles_asked`, the count, and `titles_found`, the share of them found, over all workers; empty if no probes."""
    found_count, asked_count = (sum(of_all(int(count))) for count in (mine.found.sum(), len(mine.found)))
    return {"titles_found": found_count / asked_count, "titles_asked": asked_count} if asked_count else {}
