"""Something that ranks → a FastAPI application that asks it, with limits, a token, and a rule in each refusal."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reranker.command_line.redaction import masked
from reranker.command_line.version import version
from reranker.errors import InputError, RerankerError
from reranker.ranking.list_ranker import Question, Ranking
from tune.serving.rank_requests import RankAnswer, RankRequest, RerankAnswer, RerankRequest, rule_of

Rank = Callable[[Question, int | None], Awaitable[Ranking | InputError]]  # of one list, and its permutations

_ABOUT = """Ranks candidates by how probable each is to come next after a history.

`POST /rank` takes a history and candidates. `POST /v1/rerank` is the protocol of Cohere and Jina, for their clients."""


@dataclass(frozen=True)
class Limits:
    """What a request may ask, and who may.

    Attributes:
        candidates: the most of a list.
        body_bytes: the longest body.
        token: that each request must bear; empty: none is asked for.
    """

    candidates: int
    body_bytes: int
    token: str = ""


def make_app(rank: Rank, model: str, limits: Limits) -> FastAPI:
    """The application.

    Args:
        rank: awaited for each list; its InputError is the client's fault.
        model: what the model is called in answers.
    """
    app = FastAPI(title="reranker-tuner", version=version(), description=_ABOUT)
    app.add_middleware(_BodyLimit, most=limits.body_bytes)

    def allowed(authorization: Annotated[str, Header()] = "") -> None:
        given = authorization.removeprefix("Bearer ").encode()
        if limits.token and not hmac.compare_digest(given, limits.token.encode()):
            raise HTTPException(
                401, "a request must have the service's token in its Authorization header, as a bearer token"
            )

    async def answer(question: Question, permutations: int | None = None) -> Ranking:
        if len(question[1]) > limits.candidates:
            rule = f"a list may have at most {limits.candidates} candidates here, and has {len(question[1])}"
            raise HTTPException(422, f"{rule}: send the best of a first stage")
        ranking = await rank(question, permutations)
        if isinstance(ranking, InputError):
            raise ranking
        return ranking

    @app.post("/rank", dependencies=[Depends(allowed)], response_model_exclude_none=True)
    async def rank_one(request: RankRequest) -> RankAnswer:
        """Order the candidates of one list."""
        return RankAnswer.of(await answer(request.question(), request.permutations), request)

    async def rerank(request: RerankRequest) -> RerankAnswer:
        """Order documents for a query, in the protocol of Cohere and Jina."""
        return RerankAnswer.of(await answer(request.question()), request, model)

    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):  # where the clients of Jina and Cohere, old and new, look
        app.post(path, dependencies=[Depends(allowed)], response_model_exclude_none=True)(rerank)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the service answers, and which model it has."""
        return {"status": "ok", "model": model}

    _tell_rules(app)
    return app


def _tell_rules(app: FastAPI) -> None:
    """Every refusal has a `message`, as clients of Cohere expect it."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(422, rule_of(error.errors()))

    @app.exception_handler(InputError)
    async def refused(_: Request, error: InputError) -> JSONResponse:
        return _refusal(422, str(error))

    @app.exception_handler(RerankerError)
    async def failed(_: Request, error: RerankerError) -> JSONResponse:
        return _refusal(500, str(error))

    @app.exception_handler(AnyHTTPException)
    async def other(_: Request, error: AnyHTTPException) -> JSONResponse:
        return _refusal(error.status_code, str(error.detail))


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"message": masked(message)}, status)


class _BodyLimit:
    """Refuses a body that is too long as soon as that is known, whether or not its length was announced."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most
        self._rule = f"a body may have at most {most:,} bytes"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > self._most:
            return await _refusal(413, self._rule)(scope, receive, send)
        so_far = 0

        async def counted() -> Message:
            nonlocal so_far
            message = await receive()
            so_far += len(message.get("body", b""))
            if so_far > self._most:
                raise HTTPException(413, self._rule)
            return message

        await self._app(scope, counted, send)
