"""What TensorBoard's own readers find in the files: every figure once, texts, and the HParams tab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

from reranker.storage.atomic_files import append_line
from results.study.stored_trial import TrialStatus
from results.study.study_folder import StudyFolder
from tests.stored import report
from tests.tracked import USERS, add_trial, figures, ranks
from tune.other_trackers.tensorboard_runs import TensorBoardRuns
from tune.other_trackers.tracker_files import tensorboard_folder


class Seen:
    """What TensorBoard shows of a study now."""

    def __init__(self, study: StudyFolder) -> None:
        self.folder = tensorboard_folder(study)
        self.runs = sorted(path.name for path in self.folder.iterdir())

    def _run(self, name: str) -> EventAccumulator:
        found = EventAccumulator(str(self.folder / name), size_guidance={"scalars": 0, "tensors": 0})
        found.Reload()
        return found

    def points(self, run: str, tag: str) -> list[tuple[int, Any]]:
        return [(point.step, pytest.approx(point.value, rel=1e-6)) for point in self._run(run).Scalars(tag)]

    def texts(self, run: str, tag: str) -> list[str]:
        return [t.tensor_proto.string_val[0].decode() for t in self._run(run).Tensors(f"{tag}/text_summary")]

    def tags(self, run: str) -> list[str]:
        return list(self._run(run).Tags()["scalars"])


def deliver(study: StudyFolder, *, ended: bool = True) -> Seen:
    """By a new process, which knows nothing but the files."""
    TensorBoardRuns(study).bring_up(ended=ended)
    return Seen(study)


def test_a_trial_is_a_run_with_mlflow_s_figures_and_steps(study):
    seen = deliver(study)
    assert seen.runs == ["baseline-chance", "baseline-popularity", "study", "trial-000", "trial-001", "trial-002"]
    assert seen.points("trial-000", "ndcg_at_10") == [(4000, 0.30), (8000, 0.41), (12000, 0.35)]
    assert seen.points("trial-000", "best/ndcg_at_10") == [(4000, 0.30), (8000, 0.41), (12000, 0.41)]
    assert seen.points("trial-000", "retrieved/recall_at_1")[1] == (8000, 0.41 / 0.8)
    assert seen.points("baseline-chance", "recall_at_1") == [(0, 0.05), (12000, 0.05)]
    assert seen.points("study", "best/ndcg_at_10") == [(0, 0.41)]
    assert not [tag for tag in seen.tags("trial-000") if tag.startswith("applied/")]
    assert "    learning_rate: 0.01\n" in seen.texts("trial-000", "config")[0]
    assert "applied/optimizer_steps: 750" in seen.texts("trial-000", "applied")[0]
    assert [seen.texts(f"trial-00{n}", "status") for n in range(3)] == [
        ["completed"], ["pruned"], ["failed; diverged in epoch 1"],
    ]  # fmt: skip
    assert "| 0 | winner |" in seen.texts("study", "found")[0]


def test_delivering_again_makes_no_second_point_text_or_file(study):
    first = deliver(study)
    files = sorted(first.folder.rglob("events.*"))
    again = deliver(study)
    assert sorted(again.folder.rglob("events.*")) == files
    assert len(again.points("trial-000", "ndcg_at_10")) == 3
    assert len(again.texts("trial-000", "config")) == 1


def test_a_search_that_was_killed_goes_on_without_doubled_points(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    with study.locked():
        study.trial(3).append_step({"examples": 40, "loss": 2.9})
        killed = TensorBoardRuns(study)
        killed.bring_up()  # its files stay open
        (file,) = (tensorboard_folder(study) / "trial-003").iterdir()
        file.write_bytes(file.read_bytes()[:-7])  # torn
        report(study.trial(3), USERS, ranks(3.0), **figures(2, 0.3))
        study.trial(3).append_step({"examples": 4040, "loss": 2.5})
        seen = deliver(study, ended=False)
    assert seen.texts("trial-003", "status") == ["running"]
    study.write_status(3, TrialStatus.COMPLETED)
    seen = deliver(study)
    assert seen.points("trial-003", "ndcg_at_10") == [(4000, 0.2), (8000, 0.3)]
    assert seen.points("trial-003", "step/loss") == [(40, 2.9), (4040, 2.5)]
    assert seen.texts("trial-003", "status") == ["running", "completed"]
    assert [step for step, _ in seen.points("baseline-popularity", "recall_at_1")] == [0, 12000]


def test_a_running_trial_s_figures_come_as_they_are_made_into_one_file(study):
    add_trial(study, 3, [0.2])
    study.write_status(3, TrialStatus.RUNNING)
    mirror = TensorBoardRuns(study)
    with study.locked():
        mirror.bring_up()
        assert Seen(study).points("trial-003", "ndcg_at_10") == [(4000, 0.2)]
        study.trial(3).append_report(figures(2, 0.3))
        mirror.bring_up()
    assert Seen(study).points("trial-003", "ndcg_at_10") == [(4000, 0.2), (8000, 0.3)]
    assert len(list((tensorboard_folder(study) / "trial-003").iterdir())) == 1


def test_the_hparams_tab_has_each_trial_with_its_knobs_and_seeds_together(study):
    add_trial(study, 3, [0.40], origin="replicate of 0", seed=7, learning_rate=0.01)
    deliver(study)
    groups = session_groups(tensorboard_folder(study))
    assert sorted(groups) == ["000", "001", "002"]
    assert sorted(session.name for session in groups["000"].sessions) == ["trial-000", "trial-003"]
    knobs = {group: found.hparams["learning_rate"].number_value for group, found in groups.items()}
    assert knobs == {"000": 0.01, "001": 0.001, "002": 0.0001}
    assert groups["000"].hparams["model"].string_value == "demo-tiny"
    status = {name: [session.status for session in found.sessions] for name, found in groups.items()}
    assert status["001"] == [api_pb2.STATUS_SUCCESS]
    assert status["002"] == [api_pb2.STATUS_FAILURE]
    (pruned,) = groups["001"].sessions
    values = {value.name.tag: value.value for value in pruned.metric_values}
    assert values["best/ndcg_at_10"] == pytest.approx(0.12)


def session_groups(folder: Path) -> dict[str, api_pb2.SessionGroup]:
    """As the tab asks for them."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(folder))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request_context, everything = RequestContext(), list(api_pb2.Status.values())
    experiment = context.experiment_from_metadata(
        request_context, "", True, context.hparams_metadata(request_context, ""), []
    )
    columns = [
        api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos if info.name.tag == "best/ndcg_at_10"
    ]
    request = api_pb2.ListSessionGroupsRequest(
        allowed_statuses=everything, col_params=columns, start_index=0, slice_size=99, include_metrics=True
    )
    found = list_session_groups.Handler(
        request_context=request_context, backend_context=context, experiment_id="", request=request
    ).run()
    return {group.name: group for group in found.session_groups}


def test_a_better_winner_and_a_reading_of_the_test_are_added(study):
    deliver(study)
    add_trial(study, 3, [0.6])
    append_line(study.path / "test_readings.jsonl", {"time": "", "trial": 3, "figures": {"ndcg_at_10": 0.38}})
    seen = deliver(study)
    assert seen.points("study", "best/ndcg_at_10")[-1] == (0, 0.6)
    assert seen.points("study", "test/ndcg_at_10") == [(1, 0.38)]
    assert "| 3 | winner |" in seen.texts("study", "found")[-1]


def test_a_folder_that_can_t_be_written_is_a_sentence(study):
    tensorboard_folder(study).parent.mkdir()
    tensorboard_folder(study).write_text("")
    with pytest.raises(OSError, match="cannot write"):
        deliver(study)
