"""A kept adapter ranks titles as it ranked its validation lists: one list, many, from JSON lines, from several threads."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from reranker import rank
from reranker.artifacts.adapter_files import read_facts, take_adjustment, write_facts
from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import Adjustment
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.sources.demo import TITLES
from reranker.data_config import DemoData
from reranker.errors import EnvironmentFault, InputError, TrainingError
from reranker.metrics import ranks_of_target
from reranker.modeling.checkpoints.model_files import BUNDLED
from reranker.ranking import list_ranker, rank_stream
from reranker.ranking.list_ranker import Ranking
from reranker.ranking.ranker import Reranker
from reranker.storage.atomic_files import DamagedFile
from reranker.training.sft import fine_tune
from tests.trained import small_adapter, validation_lists

PROJECT = Path(__file__).resolve().parents[2]
HISTORY, CANDIDATES = ["Dusty Saddle", "Lunar Comet"], ["Silly Clown", "Tender Kiss", "Secret Bride", "Wild Reef"]


@pytest.fixture(scope="module")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=100))


@pytest.fixture(scope="module")
def trial(data, tmp_path_factory) -> TrialFolder:
    return small_adapter(data, tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="module")
def reranker(trial) -> Reranker:
    return Reranker.load(trial.adapter)


@pytest.fixture(scope="module")
def lists(data, trial) -> list[tuple[list[str], list[str]]]:
    return validation_lists(data, trial)


def test_titles_are_ranked_exactly_as_their_validation_lists_were(reranker, trial, data, lists):
    found = reranker.rank_many(lists)
    targets = [example.target for example in data.validation(trial.read_config())]
    ranks = ranks_of_target(np.array([ranking.probabilities for ranking in found]), targets)
    _, kept = trial.read_ranks()
    assert ranks.greater.tolist() == kept.greater.tolist()
    assert len(set(kept.greater.tolist())) > 5
    for ranking in found:
        assert sorted(ranking.order) == list(range(20))
        assert [ranking.probabilities[i] for i in ranking.order] == sorted(ranking.probabilities, reverse=True)
        assert sum(ranking.probabilities) == pytest.approx(1)


def test_the_temperature_of_the_validation_lists_makes_the_probabilities_and_no_order(reranker, trial, lists, tmp_path):
    temperature = trial.read_reports()[0]["temperature"]
    assert reranker.adjustment == Adjustment(temperature)
    assert abs(math.log(temperature)) > 0.01
    older = shutil.copytree(trial.adapter, tmp_path / "adapter")
    facts = read_facts(older)
    del facts["temperature"]
    write_facts(older, facts)
    plain = Reranker.load(older).rank_many(lists[:30])
    for found, as_scored in zip(reranker.rank_many(lists[:30]), plain, strict=True):
        assert found.order == as_scored.order
        shares = np.array(as_scored.probabilities) ** (1 / temperature)
        assert found.probabilities == pytest.approx(shares / shares.sum(), abs=1e-6)


def test_an_adapter_takes_over_what_another_one_s_validation_lists_told(trial, tmp_path):
    refit = shutil.copytree(trial.adapter, tmp_path / "adapter")
    facts = read_facts(refit)
    write_facts(refit, {**facts, "temperature": 1.0, "epoch": 7})
    take_adjustment(trial.adapter, refit)
    assert Reranker.load(refit).adjustment == Reranker.load(trial.adapter).adjustment != Adjustment()
    assert read_facts(refit) == {**facts, "epoch": 7}


@pytest.mark.parametrize(
    "facts", [{"temperature": 0}, {"temperature": "1"}, {"temperature": float("nan")}, {"label_prior": 3}, {"label_prior": ["x"]}]
)  # fmt: skip
def test_a_temperature_or_prior_that_is_none_is_damage(trial, tmp_path, facts):
    adapter = shutil.copytree(trial.adapter, tmp_path / "adapter")
    write_facts(adapter, {**read_facts(adapter), **facts})
    with pytest.raises(DamagedFile, match="must be finite numbers"):
        Reranker.load(adapter)


@pytest.mark.parametrize("permutations", [1, 3])
def test_what_the_model_prefers_of_labels_is_divided_out_in_validation_as_in_use(data, lists, tmp_path, permutations):
    knobs = {"label_prior": "divide", "permutations": permutations, "examples_per_user": 1, "learning_rate": 1e-2}
    config = TrialConfig(model="demo-tiny", epochs=1, lora_rank=4, **knobs)
    folder = TrialFolder(tmp_path)
    folder.write_config(config)
    fine_tune(config, data, folder=folder)
    ranking = Reranker.load(tmp_path)
    prior = ranking.adjustment.label_prior
    assert len(prior) == 20
    assert np.ptp(prior) > 0.1
    targets = [example.target for example in data.validation(config)]
    ranks = ranks_of_target(np.array([found.probabilities for found in ranking.rank_many(lists)]), targets)
    assert ranks.greater.tolist() == folder.read_ranks()[1].greater.tolist()
    write_facts(folder.adapter, {**read_facts(folder.adapter), "label_prior": []})
    unchanged = np.array(Reranker.load(tmp_path).scores(lists))
    places = np.array(ranking.scores(lists)) - unchanged
    assert places == pytest.approx(np.broadcast_to(places[0], places.shape), abs=1e-5)
    if permutations == 1:
        assert unchanged.mean(axis=0) == pytest.approx(prior, abs=1e-5), "validation lists are in drawn orders"
        assert places[0] == pytest.approx(-np.array(prior), abs=1e-5)
    assert len(ranking.rank(HISTORY, CANDIDATES).order) == 4
    write_facts(folder.adapter, {**read_facts(folder.adapter), "label_prior": list(prior)})
    assert len(Reranker.load(tmp_path).rank(HISTORY, CANDIDATES).order) == 4, "a shorter list is its first"
    with pytest.raises(InputError, match="a list has at most 20 candidates, the labels whose prior is known"):
        ranking.rank(HISTORY, TITLES[:21])


@pytest.mark.parametrize("permutations", [None, 3])
def test_lists_of_any_length_are_answered_together_as_one_by_one(reranker, permutations):
    mixed = [
        (TITLES[start : start + 3], TITLES[start + 5 : start + 5 + n]) for start, n in enumerate((1, 52, 2, 20, 52))
    ]
    together = reranker.rank_many(mixed, permutations)
    for (history, candidates), ranking in zip(mixed, together, strict=True):
        alone = reranker.rank(history, candidates, permutations)
        assert ranking.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
        assert len(ranking.order) == len(candidates)
    assert together[0].probabilities == [1.0]


def test_permutations_average_the_log_probabilities_of_rotated_lists(reranker):
    logs = []
    for shift in (0, 1, 2, 3):
        turned = [CANDIDATES[(i + shift) % 4] for i in range(4)]
        answer = dict(zip(turned, reranker.rank(HISTORY, turned).probabilities, strict=True))
        logs.append([np.log(answer[title]) for title in CANDIDATES])
    mean = np.exp(np.mean(logs, axis=0))
    found = reranker.rank(HISTORY, CANDIDATES, permutations=4)
    assert found.probabilities == pytest.approx(mean / mean.sum(), abs=1e-5)
    assert found.probabilities != pytest.approx(np.exp(logs[0]), abs=1e-3)


def test_only_as_much_history_counts_as_the_prompt_shows(reranker):
    shown = TITLES[40:45]
    assert reranker.config.history_length == 5
    assert reranker.rank([*TITLES[:30], *shown], CANDIDATES).probabilities == pytest.approx(
        reranker.rank(shown, CANDIDATES).probabilities
    )


def test_a_prompt_that_is_too_long_spoils_no_other_list(trial, lists):
    tight = Reranker.load(trial.adapter)
    tight.config = tight.config.model_copy(update={"max_prompt_tokens": 48})
    short = [(history, candidates[:4]) for history, candidates in lists[:2]]
    before, refused, after = tight.rank_each([short[0], lists[2], short[1]])
    assert isinstance(refused, InputError)
    assert "a prompt of 20 candidates needs" in str(refused)
    for answer, expected in zip((before, after), tight.rank_many(short), strict=True):
        assert isinstance(answer, Ranking)
        assert answer.probabilities == pytest.approx(expected.probabilities)
    sink = io.StringIO()
    source = [
        json.dumps({"history": history, "candidates": candidates}) for history, candidates in (lists[2], short[0])
    ]
    rank_stream.RankStream(tight, None).run(io.BytesIO("\n".join(source).encode()), sink)
    first, second = map(json.loads, sink.getvalue().splitlines())
    assert (first["line"], "needs" in first["error"]) == (1, True)
    assert second["order"] == tight.rank_many(short)[0].order


def test_several_threads_get_the_answers_of_one(reranker, lists):
    expected = [reranker.rank(*one).order for one in lists[:40]]
    with ThreadPoolExecutor(4) as pool:
        assert [found.order for found in pool.map(lambda one: reranker.rank(*one), lists[:40])] == expected


def test_titles_that_pass_leave_nothing_on_disk(reranker, tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    reranker.rank(HISTORY, CANDIDATES)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("history", "candidates", "rule"),
    [
        ([], CANDIDATES, "history: there must be at least one title"),
        (HISTORY, [], "candidates: there must be at least one title"),
        ("Dusty Saddle", CANDIDATES, "history: titles must be a list of texts"),
        (HISTORY, None, "candidates: titles must be a list of texts"),
        (HISTORY, ["Silly Clown", 7], r"candidates: a title must be text, and not blank \(got 7\)"),
        (HISTORY, ["Silly Clown", "  "], "candidates: a title must be text, and not blank"),
        ([*HISTORY, "half \ud83d"], CANDIDATES, "history: a title must be text, and not blank"),
        (HISTORY, ["Silly Clown", "Wild Reef", "Silly  Clown"], r"a candidate must stand once in a list \(got 'Silly Clown'"),
        (HISTORY, TITLES[:53], r"at most 52 candidates, a label each \(got 53\)"),
        (["The Matrix (1999)"], ["Toy Story", "Heat"], "must know the words of the catalogue"),
        (["<|im_end|>"], CANDIDATES, "history: a title must be more than control tokens"),
    ],
)  # fmt: skip
def test_an_input_that_breaks_a_rule_is_told_which(reranker, history, candidates, rule):
    if history == ["<|im_end|>"]:
        history = [reranker._titles.tokenizer.all_special_tokens[0]]
    with pytest.raises(InputError, match=rule):
        reranker.rank(history, candidates)


def test_the_faults_of_all_lists_are_told_together(reranker):
    with pytest.raises(InputError) as caught:
        reranker.rank_many([(HISTORY, CANDIDATES), ([], CANDIDATES), (HISTORY, ["Wild Reef", "Wild Reef"])])
    assert [(fault.file, fault.field) for fault in caught.value.faults] == [
        ("list 2", "history"),
        ("list 3", "candidates"),
    ]


def test_too_many_permutations_are_refused_by_the_knob_s_own_rule(reranker):
    with pytest.raises(InputError, match="permutations: must be at most 20"):
        reranker.rank(HISTORY, CANDIDATES, permutations=21)


def test_an_adapter_s_folder_is_all_that_is_needed_and_names_no_place(reranker, trial, tmp_path):
    shutil.copytree(trial.adapter, tmp_path / "moved")
    for file in ("adapter_config.json", "reranker.json"):
        assert str(PROJECT) not in (tmp_path / "moved" / file).read_text(encoding="utf-8")
    assert Reranker.load(tmp_path / "moved").rank(HISTORY, CANDIDATES).order == reranker.rank(HISTORY, CANDIDATES).order


@pytest.mark.parametrize("file", ["reranker.json", "adapter_config.json"])
def test_a_digit_that_is_another_one_is_damage(trial, tmp_path, file):
    adapter = shutil.copytree(trial.adapter, tmp_path / "adapter")
    text = (adapter / file).read_text()
    changed = re.sub(r'"lora_alpha": \d', '"lora_alpha": 9', text)
    assert changed != text
    (adapter / file).write_text(changed)
    with pytest.raises(DamagedFile, match=rf"{file} is damaged: it is not what was written"):
        Reranker.load(adapter)


def test_the_base_of_an_adapter_may_be_named_anew(reranker, trial, tmp_path):
    adapter = shutil.copytree(trial.adapter, tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": "/models/mine"}))
    assert Reranker.load(adapter).rank(HISTORY, CANDIDATES).order == reranker.rank(HISTORY, CANDIDATES).order


def test_another_trial_s_adapter_is_not_taken_for_a_trial_s_own(trial, tmp_path):
    folder = TrialFolder(tmp_path / "trial")
    shutil.copytree(trial.adapter, folder.adapter)
    folder.write_config(trial.read_config().model_copy(update={"learning_rate": 1e-5}))
    with pytest.raises(DamagedFile, match="is of another configuration than its trial's"):
        Reranker.load(folder.path)


def test_an_older_adapter_takes_the_configuration_beside_it(reranker, trial, tmp_path):
    shutil.copytree(trial.path, tmp_path / "trial")
    (tmp_path / "trial" / "adapter" / "reranker.json").unlink()
    (tmp_path / "trial" / "epochs.jsonl").unlink()  # an older trial's tell of no temperature
    assert Reranker.load(tmp_path / "trial").config == reranker.config
    (tmp_path / "trial" / "config.json").unlink()
    with pytest.raises(EnvironmentFault, match=r"must hold reranker\.json"):
        Reranker.load(tmp_path / "trial")


@pytest.mark.parametrize("facts", [None, "{}"])
def test_an_adapter_whose_trial_has_a_temperature_is_not_used_without_it(trial, tmp_path, facts):
    shutil.copytree(trial.path, tmp_path / "trial")
    path = tmp_path / "trial" / "adapter" / "reranker.json"
    path.unlink()
    if facts is not None:
        path.write_text(facts)
    with pytest.raises(DamagedFile) as caught:
        Reranker.load(tmp_path / "trial")
    assert caught.value.path == path


def test_a_base_that_has_moved_is_named(trial, reranker, tmp_path):
    shutil.copytree(trial.adapter, tmp_path / "adapter")
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    facts = read_facts(tmp_path / "adapter")
    facts["config"]["model"] = "/gone/demo-tiny"
    write_facts(tmp_path / "adapter", facts)
    with pytest.raises(InputError, match="no such model folder"):
        Reranker.load(tmp_path / "adapter")
    moved = Reranker.load(tmp_path / "adapter", base=tmp_path / "base")
    assert moved.rank(HISTORY, CANDIDATES).order == reranker.rank(HISTORY, CANDIDATES).order


def test_a_base_with_other_weights_is_refused_and_one_in_another_precision_taken(trial, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(BUNDLED / "demo-tiny")
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    base.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    Reranker.load(trial.adapter, base=tmp_path / "base")
    base.model.layers[0].mlp.up_proj.weight.data *= 1.1
    base.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match="weights must be those that the adapter was trained on"):
        Reranker.load(trial.adapter, base=tmp_path / "base")


def test_a_base_whose_chat_template_has_changed_is_refused(trial, tmp_path):
    shutil.copytree(BUNDLED / "demo-tiny", tmp_path / "base")
    template = tmp_path / "base" / "chat_template.jinja"
    template.write_text("{# the same prompts #}" + template.read_text())
    Reranker.load(trial.adapter, base=tmp_path / "base")
    template.write_text(template.read_text().replace("<|im_end|>", "<|im_end|><|im_end|>"))
    with pytest.raises(InputError, match="chat template must write prompts as they did when the adapter was trained"):
        Reranker.load(trial.adapter, base=tmp_path / "base")


def test_what_is_no_whole_adapter_of_the_base_is_refused(trial, tmp_path):
    with pytest.raises(EnvironmentFault, match=r"must hold adapter_config\.json and adapter_model\.safetensors"):
        Reranker.load(tmp_path)
    shutil.copytree(trial.adapter, tmp_path / "other")
    facts = read_facts(tmp_path / "other")
    facts["config"]["lora_rnak"] = 4
    write_facts(tmp_path / "other", facts)
    with pytest.raises(InputError, match="did you mean 'lora_rank'"):
        Reranker.load(tmp_path / "other")
    del facts["config"]["lora_rnak"]
    facts["config"]["model"], trained_on = "demo-small", facts["base"]
    write_facts(tmp_path / "other", facts)
    with pytest.raises(InputError, match=r"weights must be those that the adapter was trained on \(got 'demo-small'\)"):
        Reranker.load(tmp_path / "other")
    write_facts(tmp_path / "other", {**facts, "base": ""})
    with pytest.raises(InputError, match="must belong to the base model"):
        Reranker.load(tmp_path / "other")
    assert len(trained_on) == 64
    (tmp_path / "other" / "adapter_model.safetensors").write_bytes(b"cut short")
    with pytest.raises(EnvironmentFault, match=r"adapter_model\.safetensors is damaged"):
        Reranker.load(tmp_path / "other")


def test_the_command_shows_one_list_with_its_latency(trial, reranker, capsys):
    arguments = [
        "--adapter",
        str(trial.path),
        "--history",
        *HISTORY,
        "--candidates",
        *CANDIDATES,
        "--permutations",
        "2",
    ]
    assert rank.main(arguments) == 0
    head, *rows, latency = capsys.readouterr().out.splitlines()
    assert head.split() == ["rank", "probability", "candidate"]
    expected = reranker.rank(HISTORY, CANDIDATES, permutations=2)
    assert [row.split(maxsplit=2)[2] for row in rows] == [CANDIDATES[i] for i in expected.order]
    assert float(rows[0].split()[1]) == pytest.approx(max(expected.probabilities), abs=1e-4)
    assert "ms a list (cpu, 2 orders of the candidates)" in latency


def test_the_command_tells_candidates_of_one_title_apart_by_their_ids(trial, capsys):
    options = ["--adapter", str(trial.path), "--history", TITLES[0], "--candidates", TITLES[1], TITLES[1]]
    assert rank.main([*options, "--candidate-ids", "17", "4"]) == 0
    head, *rows, _ = capsys.readouterr().out.splitlines()
    assert head == "rank  probability  id  candidate"
    assert sorted(row.split(maxsplit=2)[2] for row in rows) == [f"17  {TITLES[1]}", f"4   {TITLES[1]}"]


def test_ids_that_are_fewer_than_the_candidates_are_refused_by_the_command(trial, capsys):
    options = ["--adapter", str(trial.path), "--history", TITLES[0], "--candidates", TITLES[1], TITLES[2]]
    assert rank.main([*options, "--candidate-ids", "17"]) == 2
    assert "candidate_ids: must be a list with an id for each candidate" in capsys.readouterr().err


def test_a_stream_answers_each_good_line_and_says_what_is_wrong_with_the_others(trial, reranker, tmp_path, capsys):
    good = {"id": "ä1", "history": HISTORY, "candidates": CANDIDATES}
    lines = [
        "\ufeff" + json.dumps(good),
        "",
        "{not json",
        json.dumps([1]),
        json.dumps({"id": 5, "history": HISTORY}),
        json.dumps({"id": 6, "history": HISTORY, "candidates": ["Wild Reef", "Wild Reef"]}),
        '{"id": 7, "history": ["\\ud800"], "candidates": ["Wild Reef"]}',
        "[" * 100_000,
        json.dumps({**good, "order": "mine", "candidates": CANDIDATES[:2]}),
    ]
    (tmp_path / "lists.jsonl").write_bytes("\r\n".join(lines).encode())
    assert rank.main(["--adapter", str(trial.path), "--jsonl", str(tmp_path / "lists.jsonl")]) == 2
    out, err = capsys.readouterr()
    first, *refused, last = map(json.loads, out.splitlines())
    assert (first["id"], first["order"]) == ("ä1", reranker.rank(HISTORY, CANDIDATES).order)
    assert set(first) == {"id", "order", "probabilities", "ranked"}
    assert [answer["line"] for answer in refused] == [3, 4, 5, 6, 7, 8]
    assert [answer.get("id") for answer in refused] == [None, None, None, 6, 7, None]
    for answer, rule in zip(
        refused,
        ["must be JSON", "must be an object", "candidates: this must be given", "stand once", "must be text", "JSON"],
        strict=True,
    ):
        assert rule in answer["error"]
    assert last["order"] == reranker.rank(HISTORY, CANDIDATES[:2]).order
    assert "2 lists in" in err
    assert "lists/s" in err
    assert "6 lines were refused" in err


def answers_to(*lines: dict[str, Any], trial, tmp_path, capsys) -> tuple[list[dict[str, Any]], str]:
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rank.main(["--adapter", str(trial.path), "--jsonl", str(tmp_path / "lists.jsonl")])
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def test_an_answer_names_the_candidates_and_their_own_ids_from_the_first_place_to_the_last(trial, tmp_path, capsys):
    ids = [10, "b", None, 13]
    line = {"history": HISTORY, "candidates": CANDIDATES, "candidate_ids": ids}
    (answer,), err = answers_to(line, trial=trial, tmp_path=tmp_path, capsys=capsys)
    assert [one["title"] for one in answer["ranked"]] == [CANDIDATES[i] for i in answer["order"]]
    assert [one["id"] for one in answer["ranked"]] == [ids[i] for i in answer["order"]]
    assert [one["probability"] for one in answer["ranked"]] == sorted(answer["probabilities"], reverse=True)
    assert err.startswith("1 list in ")


def test_items_of_one_title_are_ranked_each_by_itself_where_ids_tell_them_apart(reranker, trial, tmp_path, capsys):
    line = {"history": HISTORY, "candidates": [*CANDIDATES, CANDIDATES[0]], "candidate_ids": ["a", "b", "c", "d", "e"]}
    same = {**line, "candidate_ids": ["a", "b", "c", "d", "a"]}
    (answer, refusal), _ = answers_to(line, same, trial=trial, tmp_path=tmp_path, capsys=capsys)
    assert {one["id"]: one["title"] for one in answer["ranked"]} == dict(zip("abcde", line["candidates"], strict=True))
    assert len(answer["probabilities"]) == 5
    expected = reranker.scores([(HISTORY, line["candidates"])])[0]
    assert answer["order"] == np.argsort(-expected, kind="stable").tolist()
    rule = (
        f"a candidate must stand once in a list (got {CANDIDATES[0]!r}); tell them apart by name, or by candidate_ids"
    )
    assert refusal["error"] == f"candidates: {rule}"


@pytest.mark.parametrize("ids", [[1], "abcd", {"a": 1}, []])
def test_ids_that_are_not_one_a_candidate_are_refused(ids, trial, tmp_path, capsys):
    line = {"history": HISTORY, "candidates": CANDIDATES, "candidate_ids": ids}
    (answer,), err = answers_to(line, trial=trial, tmp_path=tmp_path, capsys=capsys)
    assert answer["error"] == "candidate_ids: must be a list with an id for each candidate"
    assert "1 line was refused" in err


def test_an_answer_that_is_no_number_is_an_error_and_no_ranking():
    for odd in (np.nan, np.inf, -np.inf):
        with pytest.raises(TrainingError, match="holds NaN or infinity"):
            list_ranker._ranking(np.array([0.1, odd], dtype=np.float32), 0.0, 1.0)


def test_control_characters_of_a_title_do_not_reach_the_terminal():
    assert rank._shown("Amélie 🎬\x1b[31m\n\x00") == r"Amélie 🎬\x1b[31m\n\x00"


@pytest.mark.parametrize("option", ["--adapter", "--base", "--jsonl"])
@pytest.mark.parametrize("path", ["a\nb", "x" * 300, ""])
def test_a_path_that_no_file_has_is_refused(option, path, capsys):
    with pytest.raises(SystemExit):
        rank.main(["--adapter", "a", "--jsonl", "-", option, path])
    assert f"argument {option}: a path" in capsys.readouterr().err


def test_a_line_of_many_megabytes_is_put_together_once():
    line = b"x" * 10_000_000
    assert list(rank_stream._arriving(io.BytesIO(line + b"\n" + b"y"), most=9)) == [[line], [b"y"]]


def test_a_file_or_a_device_that_is_not_there_is_said_with_exit_code_2(trial, tmp_path, capsys):
    assert rank.main(["--adapter", str(trial.path), "--jsonl", str(tmp_path / "none")]) == 2
    assert rank.main(["--adapter", str(trial.path), "--device", "cuda:99", "--jsonl", "-"]) == 2
    errors = capsys.readouterr().err
    assert "none cannot be read: No such file" in errors
    assert "there is no device 'cuda:99' here" in errors
    assert "Traceback" not in errors


def test_lines_are_handed_on_as_they_arrive():
    chunks = [b'{"a"', b": 1}\n{}\n", b"{}"]

    class Slow(io.BytesIO):
        def read1(self, size=-1):
            return chunks.pop(0) if chunks else b""

    assert list(rank_stream._arriving(Slow(), most=9)) == [[b'{"a": 1}', b"{}"], [b"{}"]]
    chunks += [b"1\n2\n3\n"]
    assert list(rank_stream._arriving(Slow(), most=2)) == [[b"1", b"2"], [b"3"]]


@pytest.fixture(scope="module")
def streams(trial):
    """Two processes that wait for lines."""
    command = [sys.executable, "-m", "reranker.rank", "--adapter", str(trial.path), "--jsonl", "-"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            command, cwd=PROJECT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    yield running
    for process in running:
        process.kill()
        process.wait()


def ask(process: subprocess.Popen[str], number: int) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"id": number, "history": HISTORY, "candidates": CANDIDATES}) + "\n")
    process.stdin.flush()


@pytest.mark.slow
def test_whoever_asks_line_by_line_gets_each_answer_and_ctrl_c_ends_it_quietly(streams):
    process = streams[0]
    for number in (1, 2):
        ask(process, number)
        assert json.loads(process.stdout.readline())["id"] == number
    process.send_signal(signal.SIGINT)
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 130
    assert "2 lists in" in errors
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_reader_that_has_enough_ends_it_quietly(streams):
    process = streams[1]
    ask(process, 1)
    process.stdout.readline()
    process.stdout.close()
    ask(process, 2)
    errors = process.stderr.read()
    assert process.wait(timeout=20) == 141
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
