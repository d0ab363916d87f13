"""A real PostgreSQL server on this machine, as the system's package has it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.object_store import free_ports

USER, PASSWORD = "mlflow", "s3cr3t-of-the-tests"


@dataclass(frozen=True)
class PostgreSQL:
    folder: Path
    port: int
    programs: Path
    as_user: tuple[str, ...]

    @property
    def uri(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        self._run("pg_ctl", "-D", "db", "-w", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """At once, as a machine that goes down."""
        self._run("pg_ctl", "-D", "db", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *options: str) -> None:
        command = [*self.as_user, str(self.programs / program), *options]
        subprocess.run(command, cwd=self.folder, check=True, stdout=subprocess.DEVNULL, timeout=60)


def _programs() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else pytest.skip("PostgreSQL is not installed: apt-get install postgresql")


@contextmanager
def postgresql(folder: Path) -> Iterator[PostgreSQL]:
    """A server with a user who needs a password. It refuses to be root's."""
    programs = _programs()
    as_user: tuple[str, ...] = ()
    if os.geteuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
        as_user = ("setpriv", f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    server = PostgreSQL(folder, free_ports(1)[0], programs, as_user)
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    server._run(
        "initdb", "-D", "db", "-U", USER, "--auth=scram-sha-256", "--pwfile=password", "-E", "UTF8", "--no-sync"
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()
