"""Random damage to what each reader reads: it gives a value or one of the project's own faults, and it ends.

The examples are the same in each run. A longer run: HYPOTHESIS_EXAMPLES=10000 python -m pytest tests/bad_input/test_fuzzed_readers.py
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from reranker.artifacts.adapter_files import check_adapter, read_adjustment, read_title_scores
from reranker.data.images.item_images import opened
from reranker.data.sources import amazon, mind, movielens, recbole, steam, tables, yelp
from reranker.data.sources.reading.plain_text import plain
from reranker.data_config import (
    AmazonData,
    ImageSource,
    MindData,
    MovieLensData,
    RecBoleData,
    SteamData,
    TablesData,
    YelpData,
)
from reranker.errors import EnvironmentFault, InputError
from reranker.item_text import ItemTemplate
from reranker.modeling.checkpoints.gguf import check_gguf
from reranker.modeling.checkpoints.model_shape import read_shape
from reranker.storage import atomic_files
from reranker.storage.user_paths import user_path
from results.diagnosis.diagnosis_inputs import read_table
from tune.study_file import loading
from tune.study_file.column_names import INTERACTION_COLUMNS, recognised
from tune.study_file.image_column import image_column

_MOST_S = 300  # after which a target counts as one that does not end
FUZZ = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "25")),
)
STUDY = (
    "study: {name: a, trials: 2, seed: 3}\n"
    "data: {source: demo, users: 60}\n"
    "fixed: {model: demo-tiny, lora_rank: 8}\n"
    "space:\n  learning_rate: {log_uniform: [1e-4, 1e-2]}\n  schedule: {choice: [cosine, linear]}\n"
)
# What readers trip over: ends of lines and of structures, nesting, aliases, signs, infinities, huge numbers, marks.
_TOKENS = [
    *(token.encode() for token in ["{", "}", "[", "]", "(", ")", ":", ",", "-", "|", ">", "&", "*", "!", "%", "@", "`", '"', "'", "#", "~", "=", "/", "\\", "<", "\t", "\r", "\n", "\x00", ";", "::"]),
    *(b"null", b"true", b"nan", b"inf", b"-1", b"1e999", b"0", b"9" * 30, b"&a ", b"*a", b"<<: ", b"!!python/none ", b"---\n"),
    *(b"[" * 300, b'{"a":' * 300, b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\x1f\x8b", b"PK"),
]  # fmt: skip


def damaged(sound: bytes) -> st.SearchStrategy[bytes]:
    """The bytes with a few pieces cut out, or others put in; or something else entirely."""
    piece = st.one_of(st.binary(max_size=4), st.sampled_from(_TOKENS))
    edits = st.lists(st.tuples(st.integers(0, len(sound)), st.integers(0, 12), piece), min_size=1, max_size=4)
    cut = st.integers(0, len(sound)).map(lambda end: sound[:end])
    return st.one_of(edits.map(lambda changes: functools.reduce(_edit, changes, sound)), cut, st.binary(max_size=64))


def _edit(data: bytes, change: tuple[int, int, bytes]) -> bytes:
    at, removed, added = change
    return data[:at] + added + data[at + removed :]


@contextlib.contextmanager
def value_or_fault() -> Iterator[None]:
    """Lets the project's own faults pass, whose message is for people; anything else fails the test."""
    told = "a sentence"
    try:
        yield
    except (InputError, EnvironmentFault) as fault:
        told = str(fault).strip()
    assert told
    assert "<class '" not in told


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"the reader did not end within {_MOST_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(_MOST_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@FUZZ
@given(damaged(STUDY.encode()))
def test_study_files(content):
    Path("study.yaml").write_bytes(content)
    with value_or_fault():
        loading.load(Path("study.yaml"))


_LEAF = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.sampled_from(["demo", "epochs", "int", "choice"])
)  # fmt: skip
_NAME = st.one_of(st.sampled_from(["study", "data", "space", "fixed", "name", "trials", "source", "epochs", "int", "choice", "when"]), st.text(max_size=4))  # fmt: skip
_VALUES = st.recursive(
    _LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_NAME, inner, max_size=3)),
    max_leaves=12,
)


@FUZZ
@given(st.fixed_dictionaries(dict.fromkeys(("study", "data", "space", "fixed"), _VALUES)))
def test_studies_from_python(values):
    with value_or_fault():
        loading.load(values)


@FUZZ
@given(
    st.lists(
        st.one_of(st.text(max_size=12), st.sampled_from(["epochs=3", "study.trials=", "study=1", "data.source=x"])),
        max_size=3,
    )
)
def test_overrides(overrides):
    Path("study.yaml").write_text(STUDY, encoding="utf-8")
    with value_or_fault():
        loading.load(Path("study.yaml"), overrides)


@FUZZ
@given(st.text(alphabet="{}:|[]. \\\0abc19é", max_size=20))
def test_templates(text):
    with contextlib.suppress(ValueError):
        ItemTemplate.parse(text).fill({"a": "b"})


@FUZZ
@given(st.text(max_size=300))
def test_paths(text):
    with contextlib.suppress(ValueError):
        user_path(text)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"user_id": ["u"] * 9, "item_id": ["a"] * 9, "timestamp": range(9)}), buffer)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ml/ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,964982703\n")
        archive.writestr("ml/movies.csv", "movieId,title,genres\n1,Toy Story (1995),Comedy\n")
    return buffer.getvalue()


_REVIEW = b'{"reviewerID": "A1", "asin": "0000000001", "overall": 5.0, "unixReviewTime": 1300000000}\n'
READERS: dict[str, tuple[str, bytes, dict[str, bytes], Callable[[], Any]]] = {
    # the file that is damaged, what it holds, the files beside it, and what reads them
    "CSV": ("c.csv", b'user_id,item_id,timestamp\nu,a,1\nu,"b",2\n', {"i.csv": b"item_id,text\na,A\nb,B\n"},
            lambda: tables.read(TablesData(interactions=Path("c.csv"), items=Path("i.csv"), min_rating=None))),
    "items": ("i.csv", b'item_id,text,brand\na,"A, and B",x\nb,B,y\n', {"c.csv": b"user_id,item_id,timestamp\nu,a,1\n"},
              lambda: tables.read(TablesData(interactions=Path("c.csv"), items=Path("i.csv"), item_text="{text} | {brand:3}"))),
    "Parquet": ("c.parquet", _parquet(), {"i.csv": b"item_id,text\na,A\n"},
                lambda: tables.read(TablesData(interactions=Path("c.parquet"), items=Path("i.csv")))),
    "MovieLens": ("ml.zip", _zip(), {}, lambda: movielens.read(MovieLensData(path=Path("ml.zip")))),
    "Amazon": ("r.json", _REVIEW * 3, {"m.json": b'{"asin": "0000000001", "title": "Pen"}\n'},
               lambda: amazon.read(AmazonData(year=2018, reviews=Path("r.json"), metadata=Path("m.json"), most_malformed=1))),
    "Amazon, packed": ("r.json", gzip.compress(_REVIEW * 3, mtime=0), {"m.json": b'{"asin": "0000000001", "title": "Pen"}\n'},
                       lambda: amazon.read(AmazonData(year=2018, reviews=Path("r.json"), metadata=Path("m.json")))),
    "Amazon's products": ("m.json", b'{"asin": "0000000001", "title": ["Pen", {"a": 1}], "brand": null}\n', {"r.json": _REVIEW},
                          lambda: amazon.read(AmazonData(year=2018, reviews=Path("r.json"), metadata=Path("m.json")))),
    "Amazon's images": ("m.json", b'{"parent_asin": "0000000001", "title": "Pen", "images": [{"variant": "MAIN", "large": "a.png"}]}\n',
                        {"r.json": b'{"user_id": "A1", "parent_asin": "0000000001", "rating": 5, "timestamp": 1300000000000}\n'},
                        lambda: amazon.read(AmazonData(year=2023, reviews=Path("r.json"), metadata=Path("m.json"), images=ImageSource(), most_malformed=1))),
    "a column of images": ("c.csv", b"sku,photo\na,x.png\nb,http://[x/y.jpg\n", {}, lambda: image_column(Path("c.csv"))),
    "a column of images, Parquet": ("c.parquet", _parquet(), {}, lambda: image_column(Path("c.parquet"))),
    "RecBole": ("x.inter", b"user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\n", {"x.item": b"item_id:token\ttitle:token\na\tA\n"},
                lambda: recbole.read(RecBoleData(path=Path("x.inter"), most_malformed=1))),
    "MIND": ("behaviors.tsv", b"1\tU1\t11/15/2019 8:55:22 AM\tN1\tN1-1 N2-0\n", {"news.tsv": b"N1\ta\tb\tA title\tx\tx\t[]\t[]\n"},
             lambda: mind.read(MindData(path=Path(), most_malformed=1))),
    "Steam": ("r.json", b"{'username': 'Ann', 'product_id': '7', 'date': '2017-12-17'}\n", {"g.json": b"{'id': '7', 'title': 'H'}\n"},
              lambda: steam.read(SteamData(reviews=Path("r.json"), games=Path("g.json"), most_malformed=1))),
    "Yelp": ("r.json", b'{"user_id": "u", "business_id": "b", "date": "2018-07-07 22:09:11", "stars": 3.0}\n', {"b.json": b'{"business_id": "b", "name": "C"}\n'},
             lambda: yelp.read(YelpData(reviews=Path("r.json"), businesses=Path("b.json"), most_malformed=1))),
    "figures": ("f.csv", b"name,kind,recall_at_1,epochs\nx,trial,0.2,3\npopularity,baseline,0.1,\n", {},
                lambda: read_table(Path("f.csv"), users=9, candidates=9)),
    "a header": ("c.csv", b"user,item,when\n", {}, lambda: recognised(Path("c.csv"), {}, INTERACTION_COLUMNS)),
    "GGUF": ("m.gguf", b"GGUF" + (3).to_bytes(4, "little") + bytes(16), {}, lambda: check_gguf(Path("m.gguf"))),
    "a model's shape": ("config.json", b'{"num_attention_heads": 2, "hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 9}', {},
                        lambda: read_shape(Path("config.json"))),
    "an adapter": ("adapter_config.json", b'{"peft_type": "LORA", "r": 8}', {}, lambda: check_adapter(Path())),
    "an adapter's facts": ("reranker.json", b'{"temperature": 1.5, "label_prior": [0.1, -0.2]}', {}, lambda: read_adjustment(Path())),
    "an adapter's counts": ("collaborative.npz", _zip(), {}, lambda: read_title_scores(Path())),
}  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_files_from_elsewhere(reader):
    name, sound, beside, read = READERS[reader]
    for other, content in beside.items():
        Path(other).write_bytes(content)

    @FUZZ
    @given(damaged(sound))
    def fuzzed(content: bytes) -> None:
        Path(name).write_bytes(content)
        with value_or_fault():
            read()

    fuzzed()


def _own_files() -> dict[str, Callable[[Path], Any]]:
    """Writes a file of each kind; what reads it."""
    atomic_files.write_json(Path("json"), {"a": [1, 2.5, "x"]})
    atomic_files.append_line(Path("lines"), {"epoch": 1})
    atomic_files.append_line(Path("lines"), {"epoch": 2})
    atomic_files.write_yaml(Path("yaml"), "a: {b: [1, 2]}\n")
    atomic_files.write_table(Path("table"), pd.DataFrame({"a": range(50)}))
    return {
        "json": atomic_files.read_json,
        "lines": atomic_files.read_lines,
        "yaml": atomic_files.read_yaml,
        "table": lambda path: atomic_files.read_table(path, ["a"]),
    }


@pytest.mark.parametrize("kind", ["json", "lines", "yaml", "table"])
def test_files_of_a_study_are_what_was_written_or_damaged(kind):
    """Never another value: an altered file is no other study."""
    read, path = _own_files()[kind], Path(kind)
    sound, value = path.read_bytes(), repr(read(path))

    @FUZZ
    @given(damaged(sound))
    def fuzzed(content: bytes) -> None:
        path.write_bytes(content)
        whole_lines = ["[]", "[{'epoch': 1}]", "[{'epoch': 2}]"] if kind == "lines" else []
        with contextlib.suppress(atomic_files.DamagedFile):
            assert repr(read(path)) in [value, *whole_lines]

    fuzzed()


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(buffer, "PNG")
    return buffer.getvalue()


@FUZZ
@given(damaged(_png()))
def test_images(content):
    with contextlib.suppress(ValueError):
        assert opened(content).mode == "RGB"


@FUZZ
@given(st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3), max_leaves=8))
def test_values_of_published_records_become_text(value):
    assert isinstance(plain(value), str)
    assert isinstance(plain(json.loads("[" * 900 + "]" * 900)), str)
