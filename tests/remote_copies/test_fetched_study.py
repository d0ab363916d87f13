"""A study that is named by its copy's address: fetched, or the one that is here, and what is damaged is told."""

from __future__ import annotations

import optuna
import pytest

from reranker.errors import EnvironmentFault
from results.leaderboard import leaderboard
from results.study.checked_folder import check
from results.study.journal_file import storage
from results.study.study_folder import StudyFolder
from tests.remote_copies.conftest import tree
from tests.tracked import make_study
from tune.launching.search_options import SearchOptions
from tune.remote_copies.fetched_study import fetch_study
from tune.remote_copies.kept_copy import KeptCopy
from tune.remote_copies.remote_folder import RemoteFolder
from tune.search import search
from tune.study_file.study import Study


@pytest.fixture
def there(study, place) -> RemoteFolder:
    folder = place.child(study.path.name)
    KeptCopy(study, folder).bring_up(ended=True)
    return folder


def test_the_study_is_fetched_once_and_gives_the_same_leaderboard(study, there, tmp_path):
    said: list[str] = []
    path = fetch_study(there.address, tmp_path / "elsewhere", said.append)
    assert path == tmp_path / "elsewhere" / study.path.name
    assert said[0].startswith(f"fetching {study.path.name} from {there}: {len(there.listing())} files, 0.")
    assert leaderboard(StudyFolder(path)).equals(leaderboard(study))
    before = tree(path)
    assert fetch_study(there.address, tmp_path / "elsewhere", said.append) == path
    assert said[1] == f"{path} is as far as the copy at {there}; the search goes on from the folder"
    assert tree(path) == before
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == [study.path.name]


def test_the_study_that_is_here_is_taken_if_it_is_further_and_refused_if_it_is_not(study, there, tmp_path):
    said: list[str] = []
    optuna.load_study(study_name=None, storage=storage(study.journal)).ask()
    assert fetch_study(there.address, study.path.parent, said.append) == study.path
    assert said == [f"{study.path} is further along than the copy at {there}; the search goes on from the folder"]
    other = StudyFolder(fetch_study(there.address, tmp_path / "elsewhere", said.append))
    KeptCopy(study, there).bring_up(ended=True)
    with pytest.raises(EnvironmentFault, match=r"is the same study, and behind the copy at .+; move it away, and"):
        fetch_study(there.address, other.path.parent, said.append)


def test_another_study_of_that_name_is_left_alone(study, there, tmp_path):
    other = make_study(tmp_path / "elsewhere", "")
    other.path.rename(tmp_path / "elsewhere" / study.path.name)
    before = tree(tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFault, match=r"is another study than that at .+ name another folder with --runs"):
        fetch_study(there.address, tmp_path / "elsewhere", lambda line: None)
    assert tree(tmp_path / "elsewhere") == before


def test_a_name_that_is_not_there_is_told_with_those_that_are(there, place, tmp_path):
    with pytest.raises(EnvironmentFault) as caught:
        fetch_study(place.child("filmz").address, tmp_path / "elsewhere", lambda line: None)
    name = there.path.rpartition("/")[2]
    assert str(caught.value) == f"there is no study at {place.child('filmz')}; in {place} there are: {name}"
    assert not (tmp_path / "elsewhere").exists()


def test_from_python_too_a_search_is_resumed_by_its_copy_s_address(place, tmp_path):
    space = {"learning_rate": {"log_uniform": [1.0e-3, 1.0e-2]}}
    loaded = Study.load({"study": {"name": "filmz", "trials": 1}, "data": {"source": "demo"}, "space": space})
    options = SearchOptions(runs=tmp_path / "elsewhere")
    with pytest.raises(EnvironmentFault, match="there is no study at"):
        search(loaded, resume=place.child("filmz").address, options=options)


DAMAGES = {
    "manifest.json": ("was cut off before it was whole: it lacks manifest.json", ""),
    "optuna.log": ("was cut off before it was whole: it lacks optuna.log", ""),
    "trials/000/epochs.jsonl": ("trials/000/epochs.jsonl lacks report 1, which the journal knows", "lacks report 2, which the journal knows"),
    "trials/000/reports/0002.parquet": ("0002.parquet is missing; restore it from a copy, or leave the trial out", "is damaged"),
    "trials/000/ranks.parquet": ("ranks.parquet is missing; it was rebuilt from its reports", "it was rebuilt from its reports"),
    "trials/001/status.json": ("status.json is missing; it was rebuilt from the journal", "it was rebuilt from the journal"),
    "study.yaml": ("study.yaml is missing; it was rebuilt from the manifest", "it was rebuilt from the manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("kind", ["missing", "cut in half"])
def test_a_damaged_copy_is_told_by_file_or_mended(study, tmp_path, name, kind):
    there = RemoteFolder.at(f"file://{tmp_path}/copies").child(study.path.name)
    KeptCopy(study, there).bring_up(ended=True)
    content = there.read(name)
    assert content is not None
    there.remove(name)
    if kind == "cut in half":
        there.write_bytes(name, content[: len(content) // 2])
    missing, cut = DAMAGES[name]
    expected = missing if kind == "missing" else cut
    try:
        said = "\n".join(check(StudyFolder(fetch_study(there.address, tmp_path / "elsewhere", lambda line: None))))
    except EnvironmentFault as fault:
        said = str(fault)
    assert expected in said
    assert said
