"""The command that delivers a study to MLflow, or brings its runs up to its folder: `python -m tune.tracking STUDY`."""

from __future__ import annotations

import sys

from reranker.command_line.entry_point import Parser, a_path, last_net, not_empty
from reranker.command_line.printable_text import say
from results.study.integrity import open_study
from results.study.runs_home import runs_home
from results.study.tracking_address import tracking_uri_of
from tune.mlflow_tracking.store_address import ui_command


@last_net
def main(argv: list[str] | None = None) -> int:
    """Bring MLflow up to what a study's folder says."""
    parser = Parser(prog="python -m tune.tracking", description="Deliver a study to MLflow.")
    parser.add_argument("study", type=not_empty, help="a study's name, or the path of its folder")
    parser.add_argument("--runs", type=a_path, default=runs_home(), help="where studies are kept")
    parser.add_argument("--tracking-uri", help="default: the store that the study was tracked in")
    args = parser.parse_args(argv)
    study = open_study(args.runs, args.study)

    from tune.mlflow_tracking.tracker import brought_up  # takes seconds

    uri = args.tracking_uri or tracking_uri_of(study)
    mirror = brought_up(study, uri)
    say(f"{study.name} is in MLflow; to see it: {ui_command(uri)}")
    say(f"its leaderboard there: {mirror.leaderboard_link}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
