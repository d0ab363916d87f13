"""What `--check` prints of published data: where they are from, and on what terms."""

from __future__ import annotations

import pytest

from reranker.data.sources.origin import MOVIELENS, RECBOLE
from tune.study_file import loading
from tune.terminal.printed_plan import plan


def lines_of(tmp_path, data: str) -> list[str]:
    file = tmp_path / "study.yaml"
    file.write_text(
        f"study: {{name: x, trials: 2}}\ndata: {data}\nfixed: {{model: demo-tiny, candidates: 10}}\n"
        "space: {lora_rank: {choice: [4, 8]}}\n"
    )
    return plan(loading.load(file), None, []).splitlines()


@pytest.mark.parametrize(
    ("data", "origin"),
    [
        ("{source: movielens}", MOVIELENS["ml-latest-small"]),
        ("{source: movielens, release: ml-20m}", MOVIELENS["ml-20m"]),
        ("{source: recbole, path: x}", RECBOLE),
    ],
)
def test_published_data_are_told_with_their_origin_and_terms(tmp_path, data, origin):
    assert f"  published at {origin.address}; terms: {origin.terms}" in lines_of(tmp_path, data)


def test_data_that_nobody_has_published_have_no_origin(tmp_path):
    assert not [line for line in lines_of(tmp_path, "{source: demo}") if "published" in line]
