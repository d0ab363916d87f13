"""An adapter → a Ray Serve application whose replicas rank the lists of several requests in one pass."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from ray import serve
from ray.serve.config import AutoscalingConfig

from reranker.errors import InputError, RerankerError
from reranker.ranking.list_ranker import Question, Ranking
from reranker.ranking.ranker import Reranker
from tune.serving.http_app import Limits, make_app

# Requests that a replica holds at least: those that it turns away ask again ever more rarely, and it would be idle.
_WAITING = 64
Asked = tuple[Question, int | None]  # a list, and its permutations


@dataclass(frozen=True)
class Service:
    """How an adapter is served.

    Attributes:
        adapter: its folder.
        base: of the base model, where it has moved.
        name: what the model is called in answers.
        batch_lists: the most lists that are ranked together.
        batch_wait_s: how long the first one waits for others.
        replicas: the fewest and the most processes that have the model; more are started as requests queue up.
        cpus, gpus: of each replica; without a share of a GPU it computes on CPUs.
        limits: of each request.
    """

    adapter: Path
    base: Path | None
    name: str
    batch_lists: int
    batch_wait_s: float
    replicas: tuple[int, int]
    cpus: float
    gpus: float
    limits: Limits


def application(service: Service) -> serve.Application:
    """The application to run. Requests beyond those that are ranked and those that fill the next batches wait outside."""

    def build() -> FastAPI:
        reranker = Reranker.load(service.adapter, None if service.gpus else "cpu", service.base)
        ranker = BatchedReranker(reranker, service.batch_lists, service.batch_wait_s)
        return make_app(ranker.rank, service.name, service.limits)

    fewest, most = service.replicas
    scaling = AutoscalingConfig(
        min_replicas=fewest, initial_replicas=fewest, max_replicas=most, target_ongoing_requests=service.batch_lists
    )
    deployment = serve.deployment(
        name="reranker",
        ray_actor_options={"num_cpus": service.cpus, "num_gpus": service.gpus},
        max_ongoing_requests=max(_WAITING, 4 * service.batch_lists),
        autoscaling_config=scaling,
    )
    return deployment(serve.ingress(build)()).bind()


class BatchedReranker:
    """A reranker that is asked list by list, and ranks those that come together in one pass.

    What one list does wrong is its own answer alone.

    Args:
        most_lists: the most that are ranked together.
        wait_s: how long the first one waits for others.
    """

    def __init__(self, reranker: Reranker, most_lists: int, wait_s: float) -> None:
        self._reranker = reranker
        self._in_a_batch = serve.batch(self._answers, max_batch_size=most_lists, batch_wait_timeout_s=wait_s)

    async def rank(self, question: Question, permutations: int | None) -> Ranking | InputError:
        """The ranking of one list, or what it breaks.

        Raises:
            RerankerError: it could not be ranked, which is no fault of the list's.
        """
        answer = await self._in_a_batch((question, permutations))
        if isinstance(answer, Ranking | InputError):
            return answer
        raise answer

    async def _answers(self, requests: list[Asked]) -> list[Ranking | RerankerError]:
        return await asyncio.to_thread(self._ranked, requests)

    def _ranked(self, requests: Sequence[Asked]) -> list[Ranking | RerankerError]:
        answers: dict[int, Ranking | RerankerError] = {}
        for permutations in dict.fromkeys(wished for _, wished in requests):
            rows = [row for row, (_, wished) in enumerate(requests) if wished == permutations]
            answers |= zip(
                rows, self._reranker.rank_each([requests[row][0] for row in rows], permutations), strict=True
            )
        return [answers[row] for row in range(len(requests))]
