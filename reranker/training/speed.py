"""How fast a configuration is trained and scored here: a few real steps and lists, with a clock beside them."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.errors import TrainingStopped

_STEPS = 4  # that are trained, the first one only to warm up
_MOST_S = 20.0  # of training, after which fewer steps must do
_LISTS = 8  # that are scored
_LISTS_ON_A_GPU = 64


@dataclass(frozen=True)
class Speed:
    """Of one worker.

    Attributes:
        seconds_per_example: trained.
        seconds_per_list: scored.
        first_step: seconds of it, in which layers are compiled.
    """

    seconds_per_example: float
    seconds_per_list: float
    first_step: float = 0.0


def measure_speed(config: TrialConfig, data: RerankingData) -> Speed:
    """Train some steps and score some lists, without the lesson before; nothing is kept.

    Raises:
        InputError, EnvironmentFault, OutOfMemory: as `fine_tune`.
    """
    # Here, since they take seconds, and whoever only reads a speed does without them.
    from reranker.evaluation.scoring import EncodedLists, inspect, score
    from reranker.evaluation.title_probe import title_probes
    from reranker.modeling.device import best_device
    from reranker.modeling.model_cache import BaseModels
    from reranker.prompting.pointwise_prompts import encoder_of
    from reranker.training.batch_plan import examples_of_a_list
    from reranker.training.sft import fine_tune

    config = config.model_copy(update={"skill_steps": 0, "skill_mix": 0.0})
    if config.first_candidates is not None:  # lists are as long as in the last epoch, and shared as in all
        shared = {"list_sharing": examples_of_a_list(config, workers=1)}
        config = config.model_copy(update={"first_candidates": None, **shared})
    bases = BaseModels()
    ends = [time.perf_counter()]

    def enough() -> bool:
        ends.append(time.perf_counter())
        began = ends[1] if config.compile_layers is True else ends[0]
        return len(ends) > _STEPS or ends[-1] - began > _MOST_S

    with contextlib.suppress(TrainingStopped):
        fine_tune(config, data, on_status=lambda status: _begin(ends), should_stop=enough, bases=bases)
    steps = ends[1:] if len(ends) > 2 else ends  # without the first one, if there are others
    first_step = ends[1] - ends[0]
    per_example = (steps[-1] - steps[0]) / (len(steps) - 1) / config.effective_batch
    device = best_device()
    on_gpu = device.type == "cuda"
    validation = data.validation(config)
    lists = validation[: _LISTS_ON_A_GPU if on_gpu else _LISTS]
    if not lists:
        return Speed(per_example, 0.0, first_step)
    encoder = encoder_of(bases.catalogue(config, data), config)
    with bases.adapted(config, device) as model:
        encoded = EncodedLists.of(encoder, lists)
        probes = [probe for probe in title_probes(encoder.catalogue, config, validation) if probe.row < len(lists)]
        # A GPU loads kernels for each new shape.
        score(model, encoded if on_gpu else EncodedLists.of(encoder, lists[:1]))
        began = time.perf_counter()
        inspect(model, encoded, probes)  # as reports do
        return Speed(per_example, (time.perf_counter() - began) / len(lists), first_step)


def _begin(ends: list[float]) -> None:
    """Time starts with the first step, not with the loading before it."""
    if len(ends) == 1:
        ends[0] = time.perf_counter()
