"""What MLflow serves: a table of lists → a table of answers."""

from __future__ import annotations

import pandas as pd
import torch

from reranker.config import TrialConfig
from reranker.modeling.model_loading import load_base
from reranker.ranking.ranker import Reranker
from tune.deployment.pyfunc_model import ServedReranker

CPU = torch.device("cpu")
HISTORY = ["Dusty Saddle", "Lonesome Sheriff"]
LISTS = {7: ["Untamed Ranch", "Stellar Probe", "Silly Clown"], 2: ["Lunar Comet", "Silly Clown"]}


def test_each_answer_stands_under_the_index_of_its_row():
    config = TrialConfig(model="demo-tiny")
    served = ServedReranker()
    served._reranker = Reranker(load_base(config, CPU).eval(), config, CPU)
    asked = pd.DataFrame({"history": [HISTORY] * 2, "candidates": list(LISTS.values())}, index=list(LISTS))
    answers = served.predict(None, asked)
    expected = {row: served._reranker.rank(HISTORY, candidates).order for row, candidates in LISTS.items()}
    assert answers["order"].to_dict() == expected
