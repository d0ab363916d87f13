"""A study's baselines → how long those take, before the first trial, that are trained on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import TRAINED
from reranker.data.recommenders.pointwise_reranker import pointwise_model_of
from reranker.data.recommenders.sentence_encoder import encoder_of
from reranker.training.training_status import clock
from tune.study_file.study import Study

_MEASURED_S = 3.0  # for each


def baseline_durations(study: Study, data: RerankingData) -> Iterator[str]:
    """A line for each baseline that takes long, and one for an encoder that has to be fetched."""
    for name in study.baselines:
        if name in TRAINED:
            yield _duration(study, data, name)
        elif name == "dense" and (encoder := data.config.dense_model) and not encoder_of(encoder).is_here():
            yield f"baseline dense: {encoder} is not here yet; it is fetched when the search begins"
        elif name == "pointwise" and (model := data.config.pointwise_model):
            lists = data.validation(study.base())
            absent = (
                ""
                if pointwise_model_of(model).is_here()
                else "; it is not here yet, and fetched when the search begins"
            )
            items = len(lists) * study.base().candidates
            yield f"baseline pointwise: {model} is asked of {items:,} items, {study.settings.baseline_minutes:g} minutes at most{absent}"


def _duration(study: Study, data: RerankingData, name: str) -> str:
    from reranker.data.recommenders.sequence_models import tuning  # torch takes seconds

    items, limit = len(data.interactions.item_ids), 60 * study.settings.baseline_minutes
    epoch = tuning.seconds_of_an_epoch(name, data.split.train, items, _MEASURED_S)
    whole = tuning.MOST_RECIPES * tuning.USUAL_EPOCHS * epoch
    taken = f"about {clock(whole)}" if whole < limit else f"{clock(limit)}, which baseline_minutes allows"
    warning = "; it would be left out, since that is less than an epoch" if epoch > limit else ""
    return f"baseline {name}: an epoch takes {epoch:.1f} s; tuned before the first trial, that takes {taken}{warning}"
