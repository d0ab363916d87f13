"""A search's command line → a job of a Ray cluster, which goes on when this machine leaves, and its log."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reranker.command_line.printable_text import Terminal
from reranker.command_line.redaction import HIDDEN, without_secrets
from reranker.errors import EnvironmentFault, Fault, InputError
from reranker.modeling.checkpoints.model_names import check_name
from tune.cluster import shipped_code
from tune.cluster.shipped_code import SUBMITTED_TO
from tune.launching import arguments
from tune.study_file import loading

if TYPE_CHECKING:  # takes seconds to import
    from ray.job_submission import JobSubmissionClient

_STUDY_FILE = "study.yaml"
_ANSWER_S = 4.0
_AGENT_S = 60.0  # that a cluster which has just started may take to be ready for jobs
_VARIABLES = {
    "RAY_JOB_STOP_WAIT_TIME_S": "60",  # that a search may take to end cleanly once the job is to be stopped; Ray's own is 3
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",  # the search sends an environment of its own, which has more
    "PYTHONUNBUFFERED": "1",
}


def submit(args: argparse.Namespace, console: Terminal) -> int:
    """Submit the search that these arguments ask for, print its log until it ends, and return its exit code.

    The study file and this program travel to the cluster; data, models that are named as folders and `--runs` are the
    cluster's. Ctrl-C ends the printing and leaves the job running.

    Args:
        args: of `arguments.parsed`, with `submit`, the address of the cluster's dashboard.

    Raises:
        InputError: the study file has faults, or a secret would be seen by everybody who may see the cluster.
        EnvironmentFault: no dashboard answers there, or it wants another token.
    """
    metadata = {"runs": str(args.runs)}
    if not args.resume:
        study = loading.load(args.study_file, overrides=arguments.overrides(args), check_model=check_name)
        metadata |= {"study": study.name, "metric": study.metric, "trials": str(study.settings.trials)}
    words = shlex.join(["-m", "tune.run_search", *_words(args)])
    client = _client(args.submit)

    from tune.execution import ray_private  # imports Ray, as the client does
    from tune.execution.worker_setup import RAYS_PYTHON, SET_UP

    with tempfile.TemporaryDirectory(prefix="reranker-job-") as folder, shipped_code.packages() as packages:
        if not args.resume:
            shutil.copyfile(args.study_file, Path(folder) / _STUDY_FILE)
        variables = {**_VARIABLES, SUBMITTED_TO: args.submit, **ray_private.first_call_of_workers(SET_UP)}
        environment = {"working_dir": folder, "py_modules": packages, "env_vars": variables}
        entry = f'"${{{RAYS_PYTHON}:-python}}" {words}'
        job = _submitted(client, entrypoint=entry, metadata=metadata, runtime_env=environment)
    where = shlex.quote(args.submit)
    console.say(f"submitted as {job}; Ctrl-C leaves it running")
    console.say(f"page:  {args.submit.rstrip('/')}/#/jobs/{job}")
    console.say(f"log:   ray job logs --follow --address {where} {job}")
    console.say(f"stop:  ray job stop --address {where} {job}")
    return _follow(client, job, console)


def _words(args: argparse.Namespace) -> list[str]:
    """The search's command as the cluster runs it."""
    words = [*args.command[1:], "--address", "auto"]
    if not args.resume:
        words = [_STUDY_FILE, *(words[1:] if words[0] == str(args.study_file) else words)]
    if any(HIDDEN in word for word in [*words, *without_secrets([args.submit])]):
        rule = "a job's command can be read by everybody who may see the cluster, so it must not have a secret in it"
        hint = "leave out --webhook, and passwords in --submit, --tracking-uri and --set"
        raise InputError([Fault(rule, field="--submit", hint=hint)])
    return words


def _client(address: str) -> JobSubmissionClient:
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((str(parts.hostname), port), timeout=_ANSWER_S).close()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        hint = "it is http://HEAD:8265 unless the head was started with another port"
        raise EnvironmentFault(f"no dashboard of a Ray cluster answers at {address}: {why}; {hint}") from None

    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    from tune.execution import ray_private

    os.environ.pop("RAY_ADDRESS", None)  # Ray would take it in place of the address
    for mode in ("disabled", "token") if ray_private.token() else ("disabled",):
        os.environ["RAY_AUTH_MODE"] = mode
        ray_private.read_settings_again()
        try:
            return JobSubmissionClient(address)
        except AuthenticationError:
            continue
        except Exception as error:  # Ray raises plain ones for whatever else answers
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EnvironmentFault(f"what answers at {address} is no dashboard of a Ray cluster: {first}") from error
    raise EnvironmentFault(
        f"the Ray cluster at {address} asks for a token, and there is none here that it takes: put what "
        "`ray get-auth-token` prints on its head into the variable RAY_AUTH_TOKEN"
    )


def _submitted(client: JobSubmissionClient, **job: Any) -> str:
    for quiet in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(quiet).setLevel(logging.WARNING)  # a line for each thing that is sent
    deadline = time.monotonic() + _AGENT_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise EnvironmentFault(f"the cluster did not take the job: {error}") from error
            if time.monotonic() > deadline:
                raise EnvironmentFault("the cluster has no node that is ready for jobs") from error


def _follow(client: JobSubmissionClient, job: str, console: Terminal) -> int:
    """Print the job's log until it ends; its exit code."""
    import asyncio

    async def tail() -> None:
        async for lines in client.tail_job_logs(job):
            console.print(lines, end="", soft_wrap=True)

    try:
        asyncio.run(tail())
    except KeyboardInterrupt:
        console.say(f"{job} is left running")
        raise
    details: Any = client.get_job_info(job)
    return details.driver_exit_code if details.driver_exit_code is not None else int(str(details.status) != "SUCCEEDED")
