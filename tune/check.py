"""A study that has been read → its plan, or what any of its trials would stumble over. Starts nothing, fetches
nothing."""

from __future__ import annotations

from reranker.command_line.printable_text import Terminal
from reranker.data import sources
from reranker.data.assemble import RerankingData
from results.study.study_folder import StudyFolder
from tune.study_file.manifest import check_same
from tune.study_file.preflight import check_models, check_quantisation, check_reports
from tune.study_file.study import Study
from tune.terminal.printed_plan import plan


def check(study: Study, folder: StudyFolder | None, console: Terminal) -> int:
    """Print the plan.

    Args:
        folder: of a study that goes on, whose data must be the same.

    Raises:
        InputError: data or models break a rule, or differ from those that the study began with.
        EnvironmentFault: a file is missing.
    """
    check_quantisation(study)
    data = RerankingData.prepare(study.data).sealed() if sources.is_here(study.data) else None
    if data is not None:
        check_reports(study, data)
    console.say(plan(study, data, check_models(study, data, fetch=False)))
    if folder and data:
        check_same(folder, study, data)
    return 0
