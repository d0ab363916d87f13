"""Lists → a question about each that needs no rule: which label has this title? Who can't answer it can't rank either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reranker.config import TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import Probe, Scored
from reranker.hash_random import random_bits
from reranker.modeling.label_skill import keeps_own_skill
from reranker.process_group import of_all, worker_rank, workers
from reranker.prompting.prompts import FIND, PromptEncoder

_BEHIND_LISTS = 200  # of them at most
_ALONE = 50  # where the question stands first, so that each needs its list once more
_LIST, _TITLE = range(2)  # what a random number is for


def title_probes(catalogue: Catalogue, config: TrialConfig, examples: Sequence[Example]) -> list[Probe]:
    """Probes of some of the lists, the same ones for all configurations, each for one of its candidates.

    A title that several candidates have is right with each of them. A toy that is not taught by its title is not asked by
    it either: it was made for a question of its own, and says nothing here.
    """
    if keeps_own_skill(config):
        return []
    users = np.array([example.user for example in examples], dtype=np.int64)
    most = _BEHIND_LISTS if config.prompt_order == "candidates_first" else _ALONE
    rows = np.sort(np.argsort(random_bits(_LIST, users), kind="stable")[:most]).tolist()
    titles = catalogue.titles(config.max_title_tokens).texts
    places = (random_bits(_TITLE, users) % np.uint64(config.candidates)).astype(np.int64).tolist()
    asked = [
        Example(examples[row].user, (examples[row].candidates[places[row]],), examples[row].candidates, places[row])
        for row in rows
    ]
    prompts = PromptEncoder(catalogue, config, FIND).encode(asked)
    probes = []
    for row, example, prompt in zip(rows, asked, prompts, strict=True):
        (item,) = example.history
        right = tuple(at for at, other in enumerate(example.candidates) if titles[other] == titles[item])
        probes.append(Probe(row, prompt, right))
    return probes


def own_probes(probes: Sequence[Probe]) -> list[Probe]:
    """Those of this worker, which scores every so manieth list."""
    return [replace(probe, row=probe.row // workers()) for probe in probes if probe.row % workers() == worker_rank()]


def named_titles(mine: Scored) -> dict[str, float]:
    """`titles_asked`, and `titles_found`, the share of them that was found, over all workers."""
    found, asked = (sum(of_all(int(count))) for count in (mine.found.sum(), len(mine.found)))
    return {"titles_found": found / asked, "titles_asked": asked} if asked else {}
