"""Ray as the search has it: its own is of this machine alone, a joined one lets us in, and its end is noticed."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from reranker.errors import EnvironmentFault
from tests.ended import PATIENCE_S
from tests.ray_head import TOKEN, Head
from tune.execution.cluster_address import find_cluster

pytestmark = pytest.mark.slow  # each needs a Ray, or a trained study, of its own

PROJECT = Path(__file__).resolve().parents[2]
OWN = """
import json, os, sys
sys.path.insert(0, {project!r})
from tune.execution.ray_cluster import cluster
import psutil, ray, time
with cluster(None, None, dashboard=True) as running:
    ray.get(ray.remote(lambda: 1).remote())
    time.sleep(3)
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    found = {{c.laddr.ip for p in processes for c in p.net_connections() if c.status == "LISTEN"}}
    print(json.dumps([sorted(found), running.logs]))
"""


BROKEN = """
import sys, threading, time
sys.path.insert(0, {project!r})
from tune.execution.ray_cluster import cluster
import psutil, ray

def kill_raylets(most):
    killed = set()
    while len(killed) < most:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.name() == "raylet" and process.pid not in killed:
                    process.kill()
                    killed.add(process.pid)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)

threading.Thread(target=kill_raylets, args=({most},), daemon=True).start()
with cluster(None, None, dashboard=False):
    print(ray.get(ray.remote(lambda: "it runs").remote()))
    gcs = [p for p in psutil.Process().children(recursive=True) if p.name() == "gcs_server"]
    print(len(gcs), "GCS")
"""


COLLECTING = """
import gc, sys, threading
sys.path.insert(0, {project!r})
from tune.execution.ray_cluster import cluster
import ray

class Cycle:
    pass

def collect():
    while cycles:
        cycles.pop()
        gc.collect()

cycles = []
with cluster(None, None, dashboard=False):
    for _ in range(3000):
        cycle = Cycle()
        cycle.itself, cycle.reference = cycle, ray.put(1)
        cycles.append(cycle)
    threading.Thread(target=collect, daemon=True).start()
print("ended")
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home without a token, and a temporary folder whose path is short enough for Ray's sockets."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_ray_of_our_own_listens_on_the_loopback_interface_and_shows_nothing_to_others(home):
    done = subprocess.run(
        [sys.executable, "-c", OWN.format(project=str(PROJECT))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    addresses, logs = json.loads(done.stdout.strip().splitlines()[-1])
    assert set(addresses) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(logs).parents[2].stat().st_mode) == 0o700
    assert Path(logs).parents[2].name.startswith("reranker-")


def test_a_worker_asks_its_own_cluster_s_dashboard_and_no_other(home):
    script = f"""
import os, sys
sys.path.insert(0, {str(PROJECT)!r})
os.environ["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:1"  # of another cluster
from tune.execution.ray_cluster import cluster
import ray
with cluster(None, None, dashboard=True) as running:
    def look():
        from ray.util.state import get_actor
        mine = ray.get_runtime_context().get_actor_id()
        return os.environ["RAY_API_SERVER_ADDRESS"], get_actor(mine).state
    class Looking:
        def look(self):
            return look()
    url, state = ray.get(ray.remote(Looking).remote().look.remote())
    print(url == running.dashboard, state)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.stdout.splitlines()[-1:] == ["True ALIVE"], done.stdout + done.stderr


def test_ray_s_end_survives_a_thread_that_collects_garbage(home):
    done = subprocess.run(
        [sys.executable, "-c", COLLECTING.format(project=str(PROJECT))],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


@pytest.mark.parametrize("process", ["gcs_server", "raylet"])
@pytest.mark.slow
def test_the_end_of_ray_is_noticed_at_once_and_named(process, home):
    script = f"""
import sys, time
sys.path.insert(0, {str(PROJECT)!r})
from tune.execution.ray_cluster import RayLost, cluster
import psutil
try:
    with cluster(None, None, dashboard=False):
        next(p for p in psutil.Process().children() if p.name() == {process!r}).kill()
        try:
            time.sleep(60)
        except Exception:
            print("swallowed")
except RayLost as lost:
    print(lost)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert f"Ray's process {process} on this machine is gone; its logs are in " in done.stdout, (
        done.stdout + done.stderr
    )
    assert "swallowed" not in done.stdout


@pytest.fixture(scope="module", params=["", TOKEN], ids=["without a token", "with a token"])
def head(request):
    started = Head(request.param)
    yield started.wait(), request.param
    started.end()


def joined(port: int, **variables: str) -> str:
    """What a process that joins has to say: what an actor sees of the nodes' CPUs, or why not."""
    script = f"""
import sys
sys.path.insert(0, {str(PROJECT)!r})
from tune.execution.ray_cluster import cluster
import ray
try:
    with cluster("127.0.0.1:{port}", None) as running:
        class Looking:
            def look(self):
                return ray.cluster_resources()["CPU"]
        print(ray.get(ray.remote(num_cpus=0)(Looking).remote().look.remote()), running.token)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=PATIENCE_S,
        env={**os.environ, **variables},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr


def test_a_cluster_is_joined_in_the_mode_that_it_has(head, home):
    running, token = head
    assert joined(running.port, RAY_AUTH_TOKEN=token or TOKEN) == f"1.0 {bool(token)}"


def test_a_token_that_is_missing_or_wrong_is_named(head, home):
    running, token = head
    if not token:
        pytest.skip("of clusters that ask for one")
    assert "asks for a token, and there is none here" in joined(running.port)
    assert "does not take the token that is here" in joined(running.port, RAY_AUTH_TOKEN="cd" * 32)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nohost.invalid:6379"])
def test_where_nothing_answers_that_is_said(address, home):
    with pytest.raises(EnvironmentFault, match=f"no Ray cluster answers at {address}"):
        find_cluster(address)


@pytest.mark.parametrize("address", ["ray://h:1", "h", "h:0", "h:99999", ":1"])
def test_what_is_no_address_is_refused(address, home):
    with pytest.raises(EnvironmentFault, match="HOST:PORT"):
        find_cluster(address)


def test_what_answers_but_is_no_ray_is_told(home):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(EnvironmentFault, match="is no Ray cluster"):
            find_cluster(f"127.0.0.1:{other.getsockname()[1]}")


def test_workers_run_the_code_of_the_driver_whatever_is_installed_and_wherever_it_is_started(home):
    copy = home / "checkout"
    for package in ("reranker", "results", "tune"):
        shutil.copytree(PROJECT / package, copy / package, ignore=shutil.ignore_patterns("runs", "__pycache__"))
    script = f"""
import sys
sys.path.insert(0, {str(copy)!r})
from tune.execution.ray_cluster import cluster
import ray
with cluster(None, None, dashboard=False):
    def where():
        import reranker
        return reranker.__file__
    print(ray.get(ray.remote(where).remote()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=home, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.stdout.splitlines()[-1:] == [str(copy / "reranker" / "__init__.py")], done.stdout + done.stderr


def test_a_ray_that_did_not_start_is_started_once_more():
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(project=str(PROJECT), most=1)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["it runs", "1 GCS"], done.stderr


def test_a_ray_that_does_not_start_is_told_in_a_sentence():
    done = subprocess.run(
        [sys.executable, "-c", BROKEN.format(project=str(PROJECT), most=2)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    sentence = done.stderr.strip().splitlines()[-1]
    assert "EnvironmentFault: Ray could not be started (" in sentence
    assert sentence.endswith("); the machine may be too busy, or be short of memory or disk")
