"""Search for the fine-tuning configuration that makes a good reranker: load, check, search, report.

python tune/run_search.py                                  the demo, on generated data
python tune/run_search.py search_spaces/qwen3_lora.yaml    your study
python tune/run_search.py --resume STUDY                   go on with a study that was stopped or killed
python tune/run_search.py control STUDY stop|keep|add|pause|resume …    steer a search while it runs
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # Python puts this script's folder first, where modules would load twice under two names
    sys.path[0] = str(ROOT)
    if sys.argv[1:2] == ["control"]:
        from tune import control

        sys.exit(control.main(sys.argv[2:]))

from reranker.command_line.entry_point import last_net, run
from reranker.command_line.output_streams import outliving
from reranker.command_line.printable_text import Terminal
from reranker.modeling.checkpoints.model_names import check_name
from results.study.checked_folder import open_study
from results.study.study_folder import StudyFolder
from tune.execution.free_port import check_port
from tune.launching import arguments
from tune.launching.job_submission import submit
from tune.searching.stop_signals import end_at_once, handling
from tune.study_file import loading
from tune.study_file.copy_address import is_copy_address
from tune.terminal.driver_log import own_stdout


@last_net
def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 the search ended with a result, 2 the user's fault, 1 ours, 130 stopped with Ctrl-C."""
    args = arguments.parsed(argv, __doc__ or "")
    output = own_stdout()  # a plan that nobody gets is a fault; a search goes on without its terminal
    with handling(end_at_once):
        return _run(args, Terminal(output if args.check else outliving(output)))


def _run(args: argparse.Namespace, console: Terminal) -> int:
    """Read the study, then have it checked or searched, for which packages are imported that take seconds."""
    if args.submit:
        return submit(args, console)
    folder = open_study(args.runs, _here(args.resume, args.runs, console)) if args.resume else None
    earlier = open_study(args.runs, args.warm_start) if args.warm_start else None
    file = folder.study_file if folder else args.study_file
    study = loading.load(file, overrides=arguments.overrides(args), check_model=check_name)
    if folder is None:
        StudyFolder.check_place(args.runs, study.name)
    if args.dashboard_port:
        check_port(args.dashboard_port)
    if args.check:
        from tune.check import check

        return check(study, folder, console)
    if not args.quiet:
        console.say("starting …")
    from tune.execution.ray_private import hide_secrets_of_command
    from tune.launching.restarts import go_on_later
    from tune.search import search
    from tune.terminal.exit_status import exit_code, is_fault_of_machine

    hide_secrets_of_command()

    options = arguments.options(args)
    result = search(study, resume=folder, warm_start=earlier, options=options, console=console)
    if args.max_restarts and is_fault_of_machine(result.ending):
        go_on_later(args, result.folder, console)
    return exit_code(result.folder, result.ending)


def _here(study: str, runs: Path, console: Terminal) -> str:
    """The study's name or folder; what is named by its copy's address is fetched."""
    if not is_copy_address(study):
        return study
    from tune.remote_copies.fetched_study import fetch_study

    return str(fetch_study(study, runs, console.say))


if __name__ == "__main__":
    run(main)
