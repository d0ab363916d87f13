"""A registered adapter → answers over HTTP: the code that MLflow keeps beside the model and runs to load it.

It imports nothing of ours but `reranker`, which is kept beside it.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from reranker.errors import InputError
from reranker.ranking.list_ranker import Question
from reranker.ranking.ranker import Reranker


class ServedReranker(PythonModel):  # type: ignore[misc]
    """`reranker.rank` as MLflow asks it."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the adapter and its base from the model's artifacts."""
        self._reranker = Reranker.load(context.artifacts["adapter"], base=context.artifacts.get("base"))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row a list: `history` and `candidates` are titles, `candidate_ids`, if they are there, tell those with the same
        title apart, `history_images` and `candidate_images`, if they are there, are paths of theirs, empty for a title
        without; `order` and `probabilities` as in `Ranking`, under the rows' own index.
        """
        none = [None] * len(model_input)
        columns = (model_input["history"], model_input["candidates"], model_input.get("candidate_ids", none))
        lists = [
            Question(list(history), list(candidates), None if ids is None else list(ids))
            for history, candidates, ids in zip(*columns, strict=True)
        ]
        images = [
            (_paths(of_history), _paths(of_candidates))
            for of_history, of_candidates in zip(
                model_input.get("history_images", none), model_input.get("candidate_images", none), strict=True
            )
        ]
        try:
            rankings = self._reranker.rank_many(lists, (params or {}).get("permutations"), images)
        except InputError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error
        answers = [{"order": ranking.order, "probabilities": ranking.probabilities} for ranking in rankings]
        return pd.DataFrame(answers, columns=["order", "probabilities"], index=model_input.index)


def _paths(images: Any) -> list[str | None] | None:
    return None if images is None else [path or None for path in images]


set_model(ServedReranker())
