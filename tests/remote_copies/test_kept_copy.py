"""A study's copy: it has what the folder has, is cut off anywhere as a study to go on with, and is nobody else's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import optuna
import pytest

from reranker.config import TrialConfig
from reranker.errors import EnvironmentFault
from reranker.storage.atomic_files import write_yaml
from results.study.checked_folder import check
from results.study.journal_file import storage
from results.study.optuna_journal import CONFIG
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.remote_copies.conftest import tree
from tests.stored import report
from tests.tracked import USERS, figures, first_for
from tune import tracking
from tune.remote_copies.fetched_study import fetch_study
from tune.remote_copies.kept_copy import KeptCopy, check_copy, copy_thread
from tune.remote_copies.remote_folder import RemoteFolder, StoreFault
from tune.study_file.copy_address import child_address

OF_THIS_MACHINE = {"copied.json", "search.lock", "tracking_uri.json", "control/paused", "ray/tune/state.json"}
NOT_YET = re.compile("was cut off before it was whole: it lacks|there is no study at")
Step = Callable[[], object]


@dataclass(frozen=True)
class Watched(RemoteFolder):
    """A folder that notes what is done to it, and does something else before."""

    before: Step = lambda: None
    acts: list[str] = field(default_factory=list)

    @staticmethod
    def of(there: RemoteFolder, before: Step = lambda: None) -> Watched:
        return Watched(there.address, there.files, there.path, before)

    def write(self, name: str, source: BinaryIO) -> None:
        self.before()
        self.acts.append(f"+{name}")
        super().write(name, source)

    def remove(self, name: str) -> None:
        self.before()
        self.acts.append(f"-{name}")
        super().remove(name)


def fetched(there: RemoteFolder, runs: Path) -> StudyFolder:
    return StudyFolder(fetch_study(there.address, runs, lambda line: None))


def files(study: StudyFolder) -> dict[str, bytes]:
    return {name: content for name, content in tree(study.path).items() if name not in OF_THIS_MACHINE}


def test_the_copy_is_the_study_but_for_what_is_of_this_machine(study, place, tmp_path):
    for name in OF_THIS_MACHINE - {"copied.json", "search.lock"}:
        (study.path / name).parent.mkdir(parents=True, exist_ok=True)
        (study.path / name).write_text("{}")
    there = place.child(study.path.name)
    KeptCopy(study, there).bring_up(ended=True)
    assert set(there.listing()) == {*files(study), "copy.json"}
    other = fetched(there, tmp_path / "elsewhere")
    assert (other.path.name, files(other)) == (study.path.name, files(study))
    assert check(other) == []
    assert {path.stat().st_mode & 0o077 for path in other.path.rglob("*")} == {0}


def test_only_what_has_changed_is_sent_again(study, place):
    there = Watched.of(place.child(study.path.name))
    KeptCopy(study, there).bring_up(ended=True)
    there.acts.clear()
    study.record_act("paused by hand")
    study.write_status(1, TrialStatus.PRUNED)  # the same content, written anew
    KeptCopy(study, there).bring_up(ended=True)  # by a later launch
    assert there.acts == ["+acts.jsonl", "+trials/001/status.json"]
    there.acts.clear()
    KeptCopy(study, there).bring_up(ended=True)
    assert there.acts == []


def test_what_is_removed_here_is_removed_there(study, place):
    there = Watched.of(place.child(study.path.name))
    with study.trial(0).keeping_state(10) as state:
        (state / "optimizer.pt").write_bytes(b"ten")
    copy = KeptCopy(study, there)
    copy.bring_up()
    there.write_bytes("notes.txt", b"somebody's own")
    there.acts.clear()
    with study.trial(0).keeping_state(20) as state:
        (state / "optimizer.pt").write_bytes(b"twenty")
    copy.bring_up()
    assert there.acts == [
        "+trials/000/state-20/optimizer.pt", "+trials/000/state-20/files.json",
        "-trials/000/state-10/files.json", "-trials/000/state-10/optimizer.pt",
    ]  # fmt: skip
    assert there.read("notes.txt") == b"somebody's own"


def test_trials_that_have_ended_are_not_looked_at_again_until_the_end(study, place):
    there = Watched.of(place.child(study.path.name))
    copy = KeptCopy(study, there)
    copy.bring_up()
    there.acts.clear()
    study.trial(0).add_note("late")
    copy.bring_up()
    assert there.acts == []
    copy.bring_up(ended=True)
    assert there.acts == ["+trials/000/notes.jsonl"]


def going_on(study: StudyFolder) -> Iterator[Step]:
    """What a search does next, write by write: a new trial reports twice, keeps its states, and ends."""
    journal = optuna.load_study(study_name=None, storage=storage(study.journal))
    config = TrialConfig(model="demo-tiny", learning_rate=1e-3, epochs=2)
    asked: list[Any] = []
    yield lambda: (study.path / "ending.json").unlink()
    yield lambda: asked.append(journal.ask())
    yield lambda: study.start_trial(3, config)
    yield lambda: asked[0].set_user_attr(CONFIG, study.trial(3).config_digest())
    for epoch, recall in enumerate([0.2, 0.5], start=1):
        for weights in ("adapter_model.safetensors", "reranker.json"):
            yield lambda name=weights, n=epoch: _write(study.trial(3).adapter / name, n)  # type: ignore[misc]
        yield lambda n=epoch, r=recall: report(study.trial(3), USERS, first_for(r), **figures(n, r))  # type: ignore[misc]
        yield lambda n=epoch: _keep_state(study, n)  # type: ignore[misc]
        yield lambda n=epoch: asked[0].report(study.trial(3).read_reports()[-1]["ndcg_at_10"], n)  # type: ignore[misc]
    yield lambda: journal.tell(3, study.trial(3).read_reports()[-1]["ndcg_at_10"])
    yield lambda: study.write_status(3, TrialStatus.COMPLETED)
    yield lambda: study.trial(3).drop_state()
    yield lambda: study.write_ending("", complete=True)


def _write(path: Path, number: int) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(str(number))


def _keep_state(study: StudyFolder, step: int) -> None:
    with study.trial(3).keeping_state(step) as state:
        (state / "optimizer.pt").write_bytes(b"x" * step)


def cut_after(count: int) -> Step:
    """The store is lost once so many files have been sent or removed."""
    left = iter(range(count))

    def cut() -> None:
        if next(left, None) is None:
            raise StoreFault("cut off")

    return cut


def check_cut(there: RemoteFolder, runs: Path) -> list[str]:
    """What the check of a copy says, which was cut off and is fetched; a state is never ahead of the reports."""
    other = fetched(there, runs)
    said = check(other)
    for state in other.trial(3).states():
        if other.trial(3).is_whole(state):
            assert int(state.name.removeprefix("state-")) <= len(other.trial(3).read_reports())
    return said


@pytest.mark.parametrize("after", [5, 11, 16])
def test_a_copy_that_is_cut_off_anywhere_is_a_study_to_go_on_with(study, tmp_path, after):
    """The folder has gone on by `after` writes since the last pass, and the next one is cut off after 0, 1, 2 … files."""
    there = RemoteFolder.at(f"file://{tmp_path}/copies").child(study.path.name)
    steps = list(going_on(study))
    copy = KeptCopy(study, there)
    copy.bring_up()
    for step in steps[:after]:
        step()
    for attempt in range(100):
        copy.there = Watched.of(there, cut_after(min(attempt, 1)))  # one file more each time
        try:
            copy.bring_up(ended=after % 4 == 0)
            break
        except StoreFault:
            said = check_cut(there, tmp_path / f"cut-{attempt}")
            assert all("was rebuilt from" in line for line in said)
    assert check_cut(there, tmp_path / "whole") == []


@pytest.mark.slow
def test_a_copy_of_a_folder_that_is_written_meanwhile_is_a_study_to_go_on_with(study, tmp_path):
    """A write of the search between any two files that are sent, and the last pass cut off before its end."""
    there = RemoteFolder.at(f"file://{tmp_path}/copies").child(study.path.name)
    KeptCopy(study, there).bring_up()
    steps = list(going_on(study))
    seen = 0

    def before() -> None:
        nonlocal seen
        if steps:
            steps.pop(0)()
        seen += 1
        check_cut(there, tmp_path / f"after-{seen}")

    copy = KeptCopy(study, Watched.of(there, before))
    while steps:
        steps.pop(0)()
        copy.bring_up()
    assert seen > 20
    KeptCopy(study, there).bring_up(ended=True)
    assert check_cut(there, tmp_path / "whole") == []


def test_the_first_pass_cut_off_is_said_to_be_no_study_yet_or_is_one(study, tmp_path):
    total = len(files(study))
    outcomes = []
    for cut in range(0, total, 3):
        there = RemoteFolder.at(f"file://{tmp_path}/copies-{cut}").child(study.path.name)
        with pytest.raises(StoreFault, match="cut off"):
            KeptCopy(study, Watched.of(there, cut_after(cut))).bring_up(ended=True)
        outcomes.append("a study")
        try:
            check(fetched(there, tmp_path / f"cut-{cut}"))
        except EnvironmentFault as fault:
            outcomes[-1] = "none" if NOT_YET.search(str(fault)) else str(fault)
    assert outcomes == sorted(outcomes, reverse=True)
    assert {"a study", "none"} == set(outcomes)


def test_a_later_search_has_the_copy_and_the_earlier_one_says_so(study, place):
    there = place.child(study.path.name)
    earlier, later = KeptCopy(study, there), KeptCopy(study, there)
    earlier.bring_up()
    later.bring_up()
    with pytest.raises(StoreFault, match=r"another search of this study keeps it, on .+ since 20"):
        earlier.bring_up()
    later.bring_up(ended=True)


def test_a_copy_that_knows_more_or_other_things_is_not_written_over(study, place, tmp_path):
    there = place.child(study.path.name)
    check_copy(study, there)  # there is none yet
    KeptCopy(study, there).bring_up(ended=True)
    check_copy(study, there)
    other = fetched(there, tmp_path / "elsewhere")
    optuna.load_study(study_name=None, storage=storage(other.journal)).ask()
    check_copy(other, there)
    KeptCopy(other, there).bring_up(ended=True)
    with pytest.raises(EnvironmentFault, match=r"is further along than .+: go on with it where this folder is not"):
        check_copy(study, there)
    optuna.load_study(study_name=None, storage=storage(study.journal)).ask()
    with pytest.raises(EnvironmentFault, match="is of another study, or has gone on from another folder than"):
        check_copy(study, there)


def test_the_thread_brings_the_copy_up_and_says_what_it_lacks(study, place, tmp_path):
    thread = copy_thread(study, place)
    thread.start()
    assert thread.finish()
    assert thread.name == f"The copy at {child_address(place.address, study.path.name)}"
    assert check(fetched(place.child(study.path.name), tmp_path / "elsewhere")) == []
    (tmp_path / "file").write_text("a file where a folder belongs")
    thread = copy_thread(study, RemoteFolder.at(f"file://{tmp_path}/file"))
    thread.start()
    assert not thread.finish()
    assert thread.trouble.startswith("cannot write")


def test_the_command_brings_the_copy_up_later_unless_its_search_does(study, tmp_path, capsys):
    write_yaml(study.study_file, f"study: {{copy_to: 'file://{tmp_path}/copies'}}\n")
    there = RemoteFolder.at(f"file://{tmp_path}/copies").child(study.path.name)
    with study.locked():
        tracking._bring_up_copy(study)
    assert not there.exists()
    tracking._bring_up_copy(study)
    assert capsys.readouterr().out == f"its copy has everything: {there}\n"
    assert set(there.listing()) == {*files(study), "copy.json"}
