"""A checked study → what will be searched, on what, and what it takes, in lines. No Ray, no MLflow."""

from __future__ import annotations

from reranker.data.assemble import RerankingData
from reranker.data.sources.origin import origin_of
from results.statistics.verdict_text import counted
from tune.searching.cost_estimate import estimate_cost
from tune.study_file.memory_plan import describe_memory
from tune.study_file.preflight import ModelCheck, captioner_is_here, image_modes
from tune.study_file.study import Study
from tune.study_file.worker_device import describe_compute


def plan(study: Study, data: RerankingData | None, checks: list[ModelCheck]) -> str:
    """What will be searched, on what, and what it takes; without `data` where they are not here yet."""
    config = study.base()
    lines = [
        f"study {study.name}: {counted(study.settings.trials, 'trial')} by {study.metric}, searching {', '.join(study.knobs)}",
        f"  sampler {study.settings.sampler}, {_early_stopping(study)}",
        data.describe(config) if data else f"data: {_absent(study)} not here yet, fetched when the search begins",
        *([] if (origin := origin_of(study.data)) is None else [f"  {origin}"]),
        *([] if data is None else _captions(study, data)),
        f"baselines: {', '.join(study.baselines) or 'none'}",
        *([f"trackers: {', '.join(study.trackers)}"] if len(study.trackers) > 1 else []),
        f"cost: {estimate_cost(study)}",
        describe_compute(study),
        *describe_memory(study, checks),
    ]
    return "\n".join(lines)


def _absent(study: Study) -> str:
    """What has to be fetched of the data, as far as the study tells."""
    encoder = f" or their encoder {study.data.dense_model}" if study.data.retriever == "dense" else ""
    return f"{study.data.source}{encoder},"


def _captions(study: Study, data: RerankingData) -> list[str]:
    images = data.interactions.images
    if "caption" not in image_modes(study) or images is None:
        return []
    if data.captions:
        return [f"  images with image_mode: caption are described by {images.caption_model}"]
    fetched = "" if captioner_is_here(data) else "; it is not here yet, and fetched when the search begins"
    return [f"  images with image_mode: caption are to be described by {images.caption_model} first{fetched}"]


def _early_stopping(study: Study) -> str:
    kind, reduction = study.settings.scheduler, study.settings.asha.reduction
    if kind == "none":
        return "no trial is stopped early"
    by_epoch = study.clock == "epoch"
    marks = [f"{mark:g}" if by_epoch else f"{mark:.0f}" for mark in study.rungs]
    if not marks:
        return "no trial is stopped early, since all are as short as the first comparison"
    if kind == "median":
        first = f"epoch {marks[0]}" if by_epoch else f"{marks[0]} % of its epochs"
        return f"from {first} on, a trial below the median of the others is stopped"
    listed = " and ".join(filter(None, [", ".join(marks[:-1]), marks[-1]]))
    where = f"epoch{'s' * (len(marks) > 1)} {listed}" if by_epoch else f"{listed} % of its epochs"
    name = "ASHA" if kind == "asha" else "asynchronous Hyperband"
    best = {2: "half", 3: "third", 4: "quarter"}.get(reduction, f"1/{reduction:g}")
    slow = ", unless it is catching up" if study.settings.asha.pace else ""
    return f"{name} compares trials after {where}, and stops each that is not among the best {best}{slow}"
