"""What is said to nobody: a stream whose other end is gone lets the work go on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys

from reranker.command_line.output_streams import masking

SCRIPT = """
import os, sys
from reranker.command_line.output_streams import outliving
out = outliving(sys.stdout)
out.write("first\\n")
out.flush()
sys.stdin.readline()  # until the other end is gone
for _ in range(3):
    out.write("second\\n" * 10_000)
    out.flush()
os.write(int(sys.argv[1]), b"done")
"""


def said_to(stdout: int, gone: int) -> tuple[bytes, int]:
    """What a script says of itself that writes to a stream whose other end is closed meanwhile; its exit code."""
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(write)], stdin=subprocess.PIPE, stdout=stdout, pass_fds=[write]
    )
    os.close(write)
    os.close(stdout)
    assert os.read(gone, 100).strip() == b"first"
    os.close(gone)
    process.communicate(b"\n", timeout=60)
    return os.read(read, 100), process.returncode


def test_a_terminal_that_is_closed():
    master, slave = pty.openpty()
    assert said_to(slave, master) == (b"done", 0)


def test_a_pipe_that_nobody_reads_any_more():
    read, write = os.pipe()
    assert said_to(write, read) == (b"done", 0)


def test_a_log_gets_whole_lines_without_secrets():
    log = io.StringIO()
    stream = masking(log)
    for part in ("connecting to https://me:hun", "ter2@h.example\nAuthorization: Bearer ", "hunter2\nthe end"):
        stream.write(part)
    assert log.getvalue() == "connecting to https://***@h.example\nAuthorization: ***\n"
    stream.close()
    assert log.getvalue().endswith("\nthe end")
