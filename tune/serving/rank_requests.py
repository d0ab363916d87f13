"""Bodies of requests → what a reranker is asked, and its ranking → the body of the answer.

`POST /rank` speaks as `reranker.rank` does. `POST /v1/rerank` is the protocol of Cohere and Jina, which vLLM and most
client libraries speak as well; its `query` is the history: a title a line, the oldest first, or a list of titles.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reranker.ranking.list_ranker import Question, Ranking
from reranker.ranking.rank_stream import as_records
from reranker.storage.pydantic_faults import rule_of as field_rule

_LINE_END = re.compile(r"\r\n|\n|\r")  # `splitlines` would also cut titles at U+2028 and others within them
_IMAGES = ("history_images", "candidate_images")  # of lists that `reranker.rank` takes
MOST_PERMUTATIONS = 64  # of one request: each costs as much as a list


def _text_of(document: object) -> object:
    """A document is a text, or an object with its `text`; the rule is told of anything else."""
    return document.get("text", document) if isinstance(document, dict) else document


Document = Annotated[str, BeforeValidator(_text_of)]


class _Body(BaseModel):
    """Fields that this service does not know are let through, as the clients of others send them."""

    model_config = ConfigDict(strict=True, extra="ignore")


class RankRequest(_Body):
    """One list."""

    history: list[str] = Field(description="titles, oldest first")
    candidates: list[str] = Field(description="titles, all different where there are no ids")
    candidate_ids: list[str | int] | None = Field(
        None, description="of each candidate; given back beside its title, and tells those with the same title apart"
    )
    permutations: int | None = Field(
        None,
        ge=1,
        le=MOST_PERMUTATIONS,
        description="orders of the candidates to average over; left out: as in validation",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_images(cls, body: Any) -> Any:
        """Of other fields that this service does not know none changes the answer; the paths of images do."""
        if isinstance(body, dict) and any(body.get(name) is not None for name in _IMAGES):
            raise ValueError("must hold no images: their paths would be read on the server")
        return body

    def question(self) -> Question:
        """What the reranker is asked."""
        return Question(self.history, self.candidates, self.candidate_ids)


class RankedCandidate(BaseModel):
    """A candidate and how probable it is that it comes next; its id, if the request had ids."""

    id: str | int | None = None
    title: str
    probability: float


class RankAnswer(BaseModel):
    """`order` are positions in the candidates as given, best first; `probabilities` are in the order given; `ranked` is
    both, best first."""

    order: list[int]
    probabilities: list[float]
    ranked: list[RankedCandidate]

    @staticmethod
    def of(ranking: Ranking, request: RankRequest) -> RankAnswer:
        """The answer to a request."""
        ranked = as_records(ranking, request.candidates, request.candidate_ids)
        return RankAnswer(
            order=ranking.order,
            probabilities=ranking.probabilities,
            ranked=[RankedCandidate(**candidate) for candidate in ranked],
        )


class RerankRequest(_Body):
    """One list in the protocol of Cohere and Jina."""

    query: str | list[str] = Field(description="the history: a title a line or a list of titles, the oldest first")
    documents: list[Document] = Field(description="the candidates: texts, or objects with a text")
    top_n: int | None = Field(None, ge=1, description="how many results to give; left out: all")
    return_documents: bool = False
    model: str | None = Field(None, description="goes back into the answer; the service has one model")

    def question(self) -> Question:
        """What the reranker is asked, each document by its place; blank lines of a query are left out."""
        titles = _LINE_END.split(self.query) if isinstance(self.query, str) else self.query
        return Question([title for title in titles if title.strip()], self.documents, range(len(self.documents)))


class RerankText(BaseModel):
    """A document, as it comes back."""

    text: str


class RerankResult(BaseModel):
    """`index` is the document's place in the request; `relevance_score` its probability to come next."""

    index: int
    relevance_score: float
    document: RerankText | None = None


class RerankAnswer(BaseModel):
    """Results, best first."""

    id: str
    model: str
    results: list[RerankResult]

    @staticmethod
    def of(ranking: Ranking, request: RerankRequest, model: str) -> RerankAnswer:
        """The answer to a request, by the model of that name."""
        results = [
            RerankResult(
                index=i,
                relevance_score=ranking.probabilities[i],
                document=RerankText(text=request.documents[i]) if request.return_documents else None,
            )
            for i in ranking.order[: request.top_n]
        ]
        return RerankAnswer(id=str(uuid.uuid4()), model=request.model or model, results=results)


_BRANCHES = ("str", "int", "list[str]")  # pydantic puts the type that it tried into the place of a fault


def rule_of(errors: Sequence[Any]) -> str:
    """What a body breaks, in one sentence: the errors of pydantic, each with its place."""
    rules: dict[str, list[str]] = {}
    for error in errors:
        if error["type"] == "json_invalid":
            return f"the body must be JSON: {error['ctx']['error']}"
        place = ".".join(str(part) for part in error["loc"][1:] if part not in _BRANCHES) or "the body"
        rules.setdefault(place, []).append(field_rule(error))
    alternatives = {
        place: [broken[0], *(rule.removeprefix("must be ") for rule in broken[1:])] for place, broken in rules.items()
    }
    return "; ".join(f"{place}: {' or '.join(dict.fromkeys(broken))}" for place, broken in alternatives.items())
