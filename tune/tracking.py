"""The command that brings MLflow, the other trackers that a study names, and its copy up to its folder:
`python -m tune.tracking STUDY`."""

from __future__ import annotations

import sys

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty
from reranker.command_line.printable_text import say
from reranker.errors import EnvironmentFault
from results.study.checked_folder import open_study
from results.study.runs_home import runs_home
from results.study.study_folder import StudyFolder
from results.study.tracking_address import tracking_uri_of
from tune.mirroring.mirror_thread import Trackers
from tune.mlflow_tracking.store_address import ui_command
from tune.mlflow_tracking.store_driver import check_driver
from tune.other_trackers.chosen_trackers import check_trackers, threads_of, where_to_look

_MOST_S = 3600.0  # hundreds of runs may have to be sent


@last_net
def main(argv: list[str] | None = None) -> int:
    """Bring a study's trackers up to what its folder says."""
    parser = Parser(
        prog="python -m tune.tracking", description="Deliver a study to MLflow, its other trackers and its copy."
    )
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    parser.add_argument("--tracking-uri", help="default: the store that the study was tracked in")
    args = parser.parse_args(argv)
    study = open_study(args.runs, args.study)

    from tune.mlflow_tracking.tracker import brought_up  # takes seconds

    uri = args.tracking_uri or tracking_uri_of(study)
    check_driver(uri)
    mirror = brought_up(study, uri)
    say(f"{study.name} is in MLflow; to see it: {ui_command(uri)}")
    say(f"its leaderboard there: {mirror.leaderboard_link}")
    _deliver_to_others(study)
    _bring_up_copy(study)
    return 0


def _deliver_to_others(study: StudyFolder) -> None:
    trackers = (study.read_sections().get("study") or {}).get("trackers", [])
    trackers = [trackers] if isinstance(trackers, str) else trackers
    if study.is_searched():
        return  # the search does that, and two at once would write everything twice
    check_trackers(trackers)
    others = Trackers(threads_of(study, trackers))
    others.start()
    if troubles := others.finish(_MOST_S):
        raise EnvironmentFault("; ".join(f"{name} does not take it: {trouble}" for name, trouble in troubles.items()))
    for line in where_to_look(study, trackers):
        say(line)


def _bring_up_copy(study: StudyFolder) -> None:
    address = (study.read_sections().get("study") or {}).get("copy_to")
    if address is None or study.is_searched():
        return
    from tune.remote_copies.kept_copy import KeptCopy, check_copy, usable_place  # pyarrow's file systems
    from tune.remote_copies.remote_folder import StoreFault

    place = usable_place(address)
    assert place is not None
    there = place.child(study.path.name)
    check_copy(study, there)
    try:
        KeptCopy(study, there).bring_up(ended=True)
    except StoreFault as fault:
        raise StoreFault(f"the copy at {there} does not have everything: {fault}") from fault
    say(f"its copy has everything: {there}")


if __name__ == "__main__":
    sys.exit(main())
