"""What a process has freed goes back to the system when it is told to, and not before."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest

FRAGMENTED = """
import json, psutil
from reranker.modeling.memory.freed_memory import give_back

process = psutil.Process()
blocks = [bytearray(100_000) for _ in range(4000)]  # too small to be mapped one by one
last = bytearray(100_000)  # above them on the heap, which can't shrink below it by itself
full = process.memory_info().rss
del blocks
freed = process.memory_info().rss
give_back()
print(json.dumps([full, freed, process.memory_info().rss]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_the_system_s_again():
    done = subprocess.run([sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True)
    full, freed, given_back = json.loads(done.stdout)
    assert freed > full - 100e6  # the C library keeps it
    assert given_back < full - 300e6  # of 400 MB
