"""A configuration and its data → what each of them allows and both together do not."""

from __future__ import annotations

from reranker.config import TrialConfig
from reranker.data_config import DataConfig, DemoData, MindData, SteamData
from reranker.errors import Fault, InputError


def check_agreement(config: TrialConfig, data: DataConfig) -> None:
    """
    Raises:
        InputError: with every fault.
    """
    if faults := disagreements(config, data):
        raise InputError(faults)


def disagreements(config: TrialConfig, data: DataConfig) -> list[Fault]:
    """The faults of a configuration with these data."""
    faults = []
    if config.label_prior == "divide" and data.candidate_order == "retriever":
        rule = "must be keep with candidate_order: retriever, where a label tells how good its candidate is"
        faults.append(Fault(rule, field="label_prior", value=config.label_prior))
    if config.teacher == "file" and data.teacher_scores is None:
        rule = "file needs data.teacher_scores, a table of user_id, item_id and score"
        faults.append(Fault(rule, field="teacher", value=config.teacher))
    counted = config.collaborative_scores == "auto" and not isinstance(data, DemoData)
    if config.teacher == "collaborative" and counted:
        rule = "collaborative needs collaborative_scores: none, since auto adds these scores to the model's"
        faults.append(Fault(rule, field="teacher", value=config.teacher))
    if config.positive_grades == "rating" and isinstance(data, DemoData | MindData | SteamData):
        rule = f"rating needs interactions with a rating, and source: {data.source} has none"
        faults.append(Fault(rule, field="positive_grades", value=config.positive_grades))
    return faults
