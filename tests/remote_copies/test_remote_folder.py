"""A folder on an object store, or elsewhere: what is written there is there, and what fails is one sentence."""

from __future__ import annotations

import atexit
import io
import os
import signal

import pytest
from pyarrow import fs

from tests.object_store import BUCKET, KEY, SECRET, free_ports
from tune.remote_copies.remote_folder import RemoteFolder, StoreFault


def test_files_are_written_listed_read_and_removed(place):
    folder = place.child("a study")
    assert (folder.exists(), folder.listing(), folder.read("x")) == (False, {}, None)
    folder.write_bytes("x", b"one")
    folder.write("trials/000/y.bin", io.BytesIO(b"2" * 20_000_000))
    folder.write_bytes("x", b"three")
    assert folder.listing() == {"x": 5, "trials/000/y.bin": 20_000_000}
    assert folder.listing(deep=False) == {"x": 5}
    assert (folder.read("x"), folder.folders(), place.folders()) == (b"three", ["trials"], ["a study"])
    folder.remove("x")
    folder.remove("x")
    assert folder.listing() == {"trials/000/y.bin": 20_000_000}


def test_a_place_is_tried_and_left_as_it_was(place):
    place.check()
    assert place.listing() == {}


def test_a_copy_on_this_machine_is_its_user_s_alone(tmp_path):
    RemoteFolder.at(f"file://{tmp_path}/copies").write_bytes("a/x", b"one")
    assert [(tmp_path / "copies" / name).stat().st_mode & 0o777 for name in ("a", "a/x")] == [0o700, 0o600]


def test_where_files_appear_as_they_are_written_they_are_renamed_into_their_place(tmp_path):
    """As on HDFS; here a folder of this machine, by way of pyarrow's own file system."""
    files = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    folder = RemoteFolder("subtree", files, "copies")
    folder.write_bytes("a/x", b"one")

    class Broken(io.BytesIO):
        def read(self, *args):
            raise OSError("the disk does not work")

    with pytest.raises(StoreFault, match="cannot write a/x: the disk does not work"):
        folder.write("a/x", Broken())
    assert folder.read("a/x") == b"one"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "s3://studies/x?regio=1",
            "s3://studies/x?regio=1 can't be used: Unexpected query parameter in S3 URI: 'regio'",
        ),
        ("file:///proc/copies", "file:///proc/copies can't be used: cannot write /proc/copies/"),
    ],
)
def test_an_address_that_can_t_be_used_is_a_sentence(address, said, monkeypatch):
    with pytest.raises(StoreFault) as caught:
        RemoteFolder.at(address).check()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("variables", "bucket", "said"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another"}, BUCKET, "it does not take these credentials (The request signature"),
        ({"AWS_ACCESS_KEY_ID": "AKNOBODY"}, BUCKET, "it does not take these credentials (The access key ID"),
        ({}, "others", "it does not take these credentials (Access Denied)"),
    ],
)
def test_a_store_that_refuses_is_a_sentence_without_secrets(s3, variables, bucket, said, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreFault) as caught:
        RemoteFolder.at(f"s3://{bucket}/x").check()
    assert str(caught.value).startswith(f"s3://{bucket}/x can't be used: ")
    assert said in str(caught.value)
    assert not any(secret in str(caught.value) for secret in (SECRET, KEY, "another", "AKNOBODY"))


@pytest.mark.slow  # pyarrow tries several times
def test_a_store_that_is_not_there_is_a_sentence(monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(StoreFault) as caught:
        RemoteFolder.at("s3://studies/x?region=us-east-1").check()
    assert str(caught.value).startswith("s3://studies/x?region=us-east-1 can't be used: cannot write .probe: ")
    assert f"nothing answers there (Failed to connect to 127.0.0.1 port {port}" in str(caught.value)


def test_a_store_that_does_not_answer_is_a_sentence_in_time(s3):
    place = RemoteFolder.at(f"s3://{BUCKET}/x")
    os.kill(s3.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreFault, match=r"^s3://studies/x can't be used: it did not answer within 1 s$"):
            place.check(seconds=1)
    finally:
        os.kill(s3.process.pid, signal.SIGCONT)
        atexit.register(fs.ensure_s3_finalized)  # which such a process leaves out
