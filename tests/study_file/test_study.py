"""Study files: what a good one draws, and that each broken one says every fault with its line, field and rule."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from reranker.config import TrialConfig
from reranker.data_config import MovieLensData, TablesData
from reranker.errors import Fault, InputError
from reranker.modeling.checkpoints.model_names import check_name
from tune.study_file.loading import load
from tune.study_file.study import Study

PROJECT = Path(__file__).resolve().parents[2]
BROKEN = sorted((PROJECT / "tests" / "broken_studies").glob("*.yaml"))
PRESETS = sorted((PROJECT / "search_spaces").glob("*.yaml"))
EXPECTED = re.compile(r"^# expect: (?P<line>\d+|-) (?P<field>\S+) (?P<text>.+)$", re.MULTILINE)
HEAD = "study: {name: a, trials: 3}\ndata: {source: demo}\n"

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture
def study_of(tmp_path):
    """Load a study from the text of its `space` and what else follows."""

    def make(text: str, *overrides: str, head: str = HEAD) -> Study:
        path = tmp_path / "study.yaml"
        path.write_text(head + text)
        return load(path, overrides)

    return make


def draws(study: Study, count: int = 60, seed: int = 0) -> list[dict[str, Any]]:
    """The knobs that a random sampler draws through Optuna's own ask."""
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [study.draw(asked.ask()).model_dump() for _ in range(count)]


def faults_of(path: Path, *overrides: str) -> tuple[Fault, ...]:
    with pytest.raises(InputError) as caught:
        load(path, overrides, check_model=check_name)
    return caught.value.faults


# Broken files


def test_there_are_enough_broken_studies():
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("path", BROKEN, ids=lambda path: path.stem)
def test_a_broken_study_says_all_its_faults_and_no_other(path):
    expected = [match.groups() for match in EXPECTED.finditer(path.read_bytes().decode(errors="replace"))]
    assert expected, "the file must say what to expect"
    left = list(faults_of(path))
    assert {fault.file for fault in left} == {str(path)}
    for line, field, text in expected:
        found = [
            fault
            for fault in left
            if (str(fault.line or "-"), fault.field or "-") == (line, field) and text in str(fault)
        ]
        assert found, f"no fault {line} {field} {text}; left: {[str(fault) for fault in left]}"
        left.remove(found[0])
    assert not left


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "beauty.yaml").write_text("")
    (fault,) = faults_of(tmp_path / "beuaty.yaml")
    assert "no such study file" in fault.rule
    assert "beauty.yaml" in fault.hint


def test_a_folder_is_no_study_file(tmp_path):
    (fault,) = faults_of(tmp_path)
    assert "not a folder" in fault.rule


@pytest.mark.parametrize(
    ("name", "rule"),
    [("a\0b.yaml", "there is no such study file"), ("x" * 300 + ".yaml", "cannot be read: File name too long")],
)
def test_a_study_file_whose_name_no_file_can_have_is_refused(tmp_path, name, rule):
    (fault,) = faults_of(tmp_path / name)
    assert rule in fault.rule


def test_a_study_file_of_many_megabytes_is_refused_unread(tmp_path):
    (tmp_path / "large.yaml").write_text(HEAD + "#" * 1_000_000)
    (fault,) = faults_of(tmp_path / "large.yaml")
    assert "at most 1,000,000 bytes" in fault.rule


@pytest.mark.parametrize("text", ["[" * 3000, "*x", "[1", "{a: b", "\x00", "&a [*a]"])
def test_an_override_that_is_no_value_is_a_fault_like_others(tmp_path, text):
    (tmp_path / "a.yaml").write_text(HEAD + "space: {lora_rank: {int: [1, 4]}}\n")
    faults = faults_of(tmp_path / "a.yaml", f"epochs={text}")
    assert faults
    assert {fault.file for fault in faults} == {f"--set epochs={text}"}


# Good files


@pytest.mark.parametrize(
    ("text", "options", "models"),
    [
        ("fixed: {method: qwen3vl}\nspace: {epochs: {int: [1, 2]}}\n", [], ["qwen3vl-2b"]),
        ("fixed: {method: qwen3vl, model: qwen3vl-8b}\nspace: {epochs: {int: [1, 2]}}\n", [], ["qwen3vl-8b"]),
        (
            "fixed: {method: qwen3vl}\nspace: {model: {choice: [qwen3vl-4b, qwen3vl-8b]}}\n",
            [],
            ["qwen3vl-4b", "qwen3vl-8b"],
        ),
        ("space: {epochs: {int: [1, 2]}}\n", ["method=qwen3vl"], ["qwen3vl-2b"]),
    ],
)
def test_method_stands_for_a_model(study_of, text, options, models):
    study = study_of(text, *options)
    assert study.models == models
    assert study.base().model in {*models, TrialConfig().model}
    assert "method" not in study.base().model_dump()


def test_a_method_that_there_is_not_is_told_with_its_line(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(
        "study: {name: a, trials: 1}\ndata: {source: demo}\nfixed:\n  method: llamarec\nspace: {epochs: {int: [1, 2]}}\n"
    )
    with pytest.raises(InputError) as caught:
        load(path)
    assert [(f.line, f.field, f.value) for f in caught.value.faults] == [(4, "fixed.method", "llamarec")]
    assert "method must be qwen3vl or left out" in caught.value.faults[0].rule
    assert TrialConfig.model_validate({"method": "qwen3vl", "image_mode": "raw_image"}).model == "qwen3vl-2b"


def test_presets_are_found_and_load():
    assert len(PRESETS) == 12
    for path in PRESETS:
        study = load(path, check_model=check_name)
        assert path.read_text().startswith("# ")
        assert study.name == path.stem.replace("_", "-")
        for values in draws(study, 20):
            assert TrialConfig.model_validate(values).model_dump() == values


@pytest.mark.parametrize("given", ["in Python", "in JSON", "in an option"])
def test_letters_that_json_writes_as_two_halves_are_whole(tmp_path, given):
    template = "\N{CLAPPER BOARD} {title}"
    data = {"source": "movielens", **({} if given == "in an option" else {"item_text": template})}
    sections = {"study": {"name": "a", "trials": 3}, "data": data, "space": {"epochs": {"int": [1, 2]}}}
    (tmp_path / "study.yaml").write_text(json.dumps(sections))
    options = [f"data.item_text={json.dumps(template)}"] if given == "in an option" else []
    study = Study.load(sections) if given == "in Python" else load(tmp_path / "study.yaml", options)
    assert isinstance(study.data, MovieLensData)
    assert study.data.item_text == template


def test_the_examples_of_the_documentation_load(study_of):
    examples = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "STUDY_FILES.md").read_text(), re.DOTALL)
    assert len(examples) == 7
    for example in examples:
        assert study_of("space:\n" + textwrap.indent(example, "  ")).dimensions


def test_the_settings_are_read_and_the_rest_is_default(study_of):
    study = study_of(
        "resources: {workers: 2, gpus_per_trial: 1}\nspace: {epochs: {int: [1, 4]}}\n",
        head="study: {name: a.b-c_1, trials: 7, metric: val_loss, time_budget: 1h30m, asha: {grace: 2}}\n"
        "data: {source: demo, users: 100}\n",
    )
    assert (study.name, study.metric, study.mode) == ("a.b-c_1", "val_loss", "min")
    assert study.time_budget_s == 5400
    assert (study.settings.trials, study.settings.asha.grace, study.settings.asha.reduction) == (7, 2, 3)
    assert (study.settings.sampler, study.settings.concurrency, study.settings.seed) == ("tpe", None, 0)
    assert (study.resources.workers, study.resources.gpus_per_trial, study.data.users) == (2, 1, 100)


@pytest.mark.parametrize(("text", "seconds"), [("6h", 21600), ("90m", 5400), ("30s", 30), ("1h1m1s", 3661)])
def test_time_budgets(study_of, text, seconds):
    assert study_of("space: {epochs: {int: [1, 4]}}\n", f"study.time_budget={text}").time_budget_s == seconds


def test_a_score_is_maximised(study_of):
    assert study_of("space: {epochs: {int: [1, 4]}}\n").mode == "max"


@pytest.mark.parametrize("number", ["1e-5", "1E-5", "1.e-5", "0.1e-4", ".00001", "+1e-05"])
def test_every_way_to_write_a_number_is_one(study_of, number):
    assert study_of(f"fixed: {{learning_rate: {number}}}\nspace: {{epochs: {{int: [1, 4]}}}}\n").fixed == {
        "learning_rate": 1e-5
    }


def test_quoted_text_stays_text(study_of):
    assert study_of("space: {epochs: {int: [1, 4]}}\n", head=HEAD.replace("name: a", "name: '2026'")).name == "2026"


def test_anchors_and_aliases_are_understood(study_of):
    study = study_of("space:\n  lora_rank: {choice: &sizes [4, 8]}\n  effective_batch: {choice: *sizes}\n")
    assert {values["effective_batch"] for values in draws(study)} == {4, 8}


def test_fixed_knobs_that_go_together_only_with_each_other_are_read(study_of):
    study = study_of("fixed: {candidates: 40, list_sharing: 30}\nspace: {lora_rank: {choice: [4, 8]}}")
    assert (study.base().candidates, study.base().list_sharing) == (40, 30)


@pytest.mark.parametrize("styles", ["[mixed, numbers]", "[numbers]"])
def test_a_default_that_no_trial_has_breaks_no_rule(study_of, styles):
    study = study_of(
        f"fixed: {{candidates: 60}}\nspace: {{label_style: {{choice: {styles}}}, lora_rank: {{choice: [4, 8]}}}}"
    )
    assert study.base().candidates == 60
    assert study.base().label_style in styles


def test_a_rule_that_some_choices_break_with_the_fixed_knobs_is_told_at_those(study_of):
    with pytest.raises(InputError) as raised:
        study_of(
            "fixed: {candidates: 60}\nspace: {label_style: {choice: [numbers, letters]}, lora_rank: {choice: [4, 8]}}"
        )
    (fault,) = raised.value.faults
    assert fault.field == "space.label_style.choice.1"
    assert "candidates must be at most 52 with label_style: letters" in fault.rule


def test_each_distribution_draws_its_whole_range_and_nothing_else(study_of):
    study = study_of(
        """space:
  epochs: {int: [2, 10], step: 4}
  lora_rank: {int: [1, 64], log: true}
  lora_dropout: {uniform: [0.0, 0.4]}
  learning_rate: {log_uniform: [1e-5, 1e-1]}
  negatives: {choice: [{uniform: 1.0}, {uniform: 0.5, popularity: 0.5}]}
  examples_per_user: {choice: [5, null]}
"""
    )
    drawn = draws(study, 400)
    assert {values["epochs"] for values in drawn} == {2, 6, 10}
    assert {values["examples_per_user"] for values in drawn} == {5, None}
    assert {values["negatives"]["popularity"] for values in drawn} == {0.0, 0.5}
    assert sum(values["lora_dropout"] < 0.2 for values in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    assert sum(values["learning_rate"] < 1e-3 for values in drawn) / 400 == pytest.approx(0.5, abs=0.1)
    below_8 = math.log(8 / 1) / math.log(65 / 1)
    assert sum(values["lora_rank"] < 8 for values in drawn) / 400 == pytest.approx(below_8, abs=0.1)
    assert min(values["lora_rank"] for values in drawn) == 1


def test_what_is_not_searched_is_fixed_or_default_and_alpha_follows_the_rank(study_of):
    for values in draws(study_of("fixed: {epochs: 9}\nspace: {lora_rank: {choice: [4, 32]}}\n")):
        assert values["epochs"] == 9
        assert values["lora_alpha"] == 2 * values["lora_rank"]
        assert values["learning_rate"] == TrialConfig().learning_rate


def test_a_ratio_multiplies_the_other_knob_wherever_it_stands(study_of):
    study = study_of("space:\n  lora_alpha: {ratio_of: lora_rank, choice: [0.5, 2]}\n  lora_rank: {choice: [4, 32]}\n")
    pairs = Counter((values["lora_rank"], values["lora_alpha"]) for values in draws(study))
    assert set(pairs) == {(4, 2), (4, 8), (32, 16), (32, 64)}
    assert all(type(alpha) is int for _, alpha in pairs)
    assert study.knobs == ["lora_alpha", "lora_rank"]


def test_a_ratio_of_a_knob_that_is_not_searched(study_of):
    study = study_of("fixed: {lora_rank: 8}\nspace: {lora_alpha: {ratio_of: lora_rank, choice: [1, 4]}}\n")
    assert {values["lora_alpha"] for values in draws(study)} == {8, 32}


def test_a_condition_decides_whether_a_knob_is_drawn(study_of):
    study = study_of(
        """fixed: {lora_dropout: 0.5}
space:
  weight_decay: {uniform: [0.01, 0.1], when: {schedule: [linear, cosine], lora_rank: 8}}
  lora_dropout: {uniform: [0.0, 0.1], when: {schedule: constant}}
  schedule: {choice: [constant, linear, cosine]}
  lora_rank: {choice: [4, 8]}
""",
        "study.scheduler=none",
    )
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    met = Counter[bool]()
    for _ in range(60):
        trial = asked.ask()
        config = study.draw(trial)
        decays = config.schedule != "constant" and config.lora_rank == 8
        met[decays] += 1
        assert (config.weight_decay > 0) == decays == ("weight_decay" in trial.params)
        assert (config.lora_dropout <= 0.1) == (config.schedule == "constant")
        assert config.lora_dropout <= 0.1 or config.lora_dropout == 0.5
    assert min(met[True], met[False]) > 5


def test_knobs_joined_by_plus_vary_together(study_of):
    study = study_of("space:\n  epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4]]}\n")
    assert {(values["epochs"], values["learning_rate"]) for values in draws(study)} == {(3, 1e-3), (10, 1e-4)}
    assert study.knobs == ["epochs", "learning_rate"]


@pytest.mark.parametrize(
    ("space", "longest"),
    [
        ("lora_rank: {choice: [4, 8]}", TrialConfig().epochs),
        ("epochs: {int: [1, 20]}", 20),
        ("epochs: {choice: [9, 2]}", 9),
        ("epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4], [4, 1e-5]]}", 10),
        ("epochs: {int: [1, 20], when: {schedule: cosine}}\n  schedule: {choice: [linear, cosine]}", 20),
        ("epochs: {ratio_of: lora_rank, choice: [1, 2]}\n  lora_rank: {choice: [4, 8]}", 16),
    ],
)
def test_the_longest_trial_is_known(study_of, space, longest):
    study = study_of(f"space:\n  {space}\n")
    assert study.max_epochs == longest
    assert max(values["epochs"] for values in draws(study, 300)) == longest


def test_extremes_hold_each_model_with_all_lowest_and_all_highest_ends(study_of):
    study = study_of(
        "space:\n  model: {choice: [demo-tiny, qwen3-4b, demo-small]}\n  history_length: {int: [5, 50]}\n"
        "  label_position: {choice: [before, after]}\n"
    )
    found = {(config.model, config.history_length, config.label_position) for config in study.extremes()}
    models = ("demo-tiny", "qwen3-4b", "demo-small")
    assert found == {(model, *rest) for model in models for rest in ((5, "before"), (50, "after"))}


def test_start_points_are_drawn_first_and_what_they_leave_out_is_sampled(study_of):
    study = study_of(
        """space:
  epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4]]}
  lora_rank: {choice: [4, 8]}
  lora_alpha: {ratio_of: lora_rank, choice: [1, 4]}
  negatives: {choice: [{uniform: 1.0}, {uniform: 0.5, popularity: 0.5}]}
  lora_dropout: {uniform: [0, 0.2]}
""",
        head="""study:
  name: a
  trials: 3
  start_from:
    - {epochs: 10, learning_rate: 1e-4, lora_rank: 8, lora_alpha: 32, schedule: constant}
    - {negatives: {uniform: 0.5, popularity: 0.5}, lora_dropout: 0.2}
data: {source: demo}
""",
    )
    asked = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for point in study.start_points:
        asked.enqueue_trial(point)
    first, second = study.draw(asked.ask()), study.draw(asked.ask())
    assert (first.epochs, first.learning_rate, first.lora_rank, first.lora_alpha) == (10, 1e-4, 8, 32)
    assert 0 < first.lora_dropout < 0.2
    assert (second.negatives.popularity, second.lora_dropout) == (0.5, 0.2)


def test_a_start_point_may_name_alpha_as_it_follows_from_the_rank(study_of):
    head = HEAD.replace("trials: 3", "trials: 3, start_from: [{lora_rank: 8, lora_alpha: 16}]")
    assert study_of("space: {lora_rank: {choice: [4, 8]}}\n", head=head).start_points == ({"lora_rank": 8},)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_dumped_study_loads_to_an_equal_one(path, tmp_path):
    study = load(path, ["study.name=12e3x", "study.trials=5", "learning_rate=1e-5"])
    (tmp_path / "again.yaml").write_text(study.dump())
    again = load(tmp_path / "again.yaml")
    assert again == study
    assert again.fingerprint == study.fingerprint
    assert draws(again) == draws(study)


def test_a_dump_keeps_text_that_looks_like_a_number(study_of, tmp_path):
    study = study_of("space: {epochs: {int: [1, 4]}}\n", "study.name='12e34'")
    (tmp_path / "again.yaml").write_text(study.dump())
    assert load(tmp_path / "again.yaml").name == "12e34"


def test_data_stands_beside_the_study_file_or_in_the_current_folder(tmp_path, monkeypatch):
    studies, here, elsewhere = tmp_path / "studies", tmp_path / "here", tmp_path / "elsewhere"
    for folder in (studies, here, elsewhere):
        folder.mkdir()
    (studies / "ratings.csv").touch()
    monkeypatch.chdir(here)
    (studies / "a.yaml").write_text(
        "study: {name: a, trials: 3}\nspace: {epochs: {int: [1, 4]}}\n"
        "data: {source: tables, interactions: ratings.csv, items: items.csv}\n"
    )
    study = load(Path("../studies/a.yaml"))
    assert isinstance(study.data, TablesData)
    assert study.data.interactions.samefile(studies / "ratings.csv")
    assert study.data.items == here / "items.csv"
    (elsewhere / "b.yaml").write_text(study.dump())
    monkeypatch.chdir(elsewhere)
    assert load(Path("b.yaml")) == study


def test_the_fingerprint_is_of_what_makes_trials_comparable(study_of):
    space = "space: {epochs: {int: [1, 4]}, lora_rank: {choice: [4, 8]}}\n"
    same = {study_of(space, change).fingerprint for change in ("study.trials=9", "study.name=b", "study.seed=3")}
    assert same == {study_of(space).fingerprint}
    changes = ("data.users=99", "study.metric=val_loss", "epochs=2", "space.epochs.int=[1, 5]", "weight_decay=0.1")
    others = {study_of(space, change).fingerprint for change in changes}
    assert len(others | same) == len(changes) + 1


# Overrides


def test_an_override_fixes_a_knob_everywhere(study_of):
    head = HEAD.replace("trials: 3", "trials: 3, start_from: [{learning_rate: 1e-3, epochs: 2}]")
    space = "space: {learning_rate: {log_uniform: [1e-5, 1e-2]}, epochs: {int: [1, 4]}}\n"
    study = study_of(space, "learning_rate=1e-4", head=head)
    assert study.fixed == {"learning_rate": 1e-4}
    assert study.knobs == ["epochs"]
    assert study.start_points == ({"epochs": 2},)
    assert yaml.safe_load(study.dump())["fixed"] == {"learning_rate": 1e-4}


def test_an_override_reaches_any_field(study_of):
    space = "space: {learning_rate: {log_uniform: [1e-5, 1e-2]}, epochs: {int: [1, 4]}}\n"
    changes = ("study.trials=9", "study.asha.grace=2", "data.users=50", "space.learning_rate.log_uniform=[1e-4, 1e-3]")
    study = study_of(space, *changes, "resources.workers=2")
    assert (study.settings.trials, study.settings.asha.grace, study.data.users) == (9, 2, 50)
    assert study.resources.workers == 2
    assert all(1e-4 <= values["learning_rate"] <= 1e-3 for values in draws(study))


def test_knobs_that_vary_together_are_fixed_together(study_of):
    space = "space:\n  epochs+learning_rate: {choice: [[3, 1e-3], [10, 1e-4]]}\n  lora_rank: {choice: [4, 8]}\n"
    assert study_of(space, "epochs=5", "learning_rate=2e-4").knobs == ["lora_rank"]
    with pytest.raises(InputError, match="fix all of them or none"):
        study_of(space, "epochs=5")


def test_a_condition_that_an_override_leaves_without_use_is_no_fault(study_of):
    space = "space:\n  weight_decay: {uniform: [0.1, 0.2], when: {schedule: cosine}}\n  epochs: {int: [1, 4]}\n"
    assert {values["weight_decay"] for values in draws(study_of(space, "schedule=linear"))} == {0.0}


@pytest.mark.parametrize(
    ("override", "field", "text"),
    [
        ("learning_rate=fast", "fixed.learning_rate", "must be a number (got 'fast')"),
        ("learning_rat=1e-4", "", "did you mean 'learning_rate'?"),
        ("study.trails=3", "study.trails", "did you mean 'trials'?"),
        ("study.trials=0", "study.trials", "must be at least 1 (got 0)"),
        ("stdy.trials=3", "", "did you mean 'study'?"),
        ("space.epochs.int=[5, 1]", "space.epochs.int", "low end must be below the high end"),
        ("space.epochs.int=[0, 4]", "space.epochs.int.0", "both ends of [0, 4] must be valid"),
        ("learning_rate", "", "KNOB=VALUE or section.field=VALUE"),
        ("epochs=[1", "", "not a value"),
        ("model=qwen3-1.6b", "fixed.model", "qwen3-1.7b"),
        ("study=3", "", "KNOB=VALUE or section.field=VALUE"),
        ("negatives.uniform=0.5", "", "KNOB=VALUE or section.field=VALUE"),
        ("study.name.first=3", "study.name", "must be text"),
        ("study.start_from.0.epochs=2", "study.start_from", "must be a list"),
        ("space.lora_rnk.choice=[1]", "space.lora_rnk", "did you mean 'lora_rank'?"),
    ],
)
def test_a_fault_of_an_override_cites_it(tmp_path, override, field, text):
    (tmp_path / "a.yaml").write_text(f"{HEAD}space: {{epochs: {{int: [1, 4]}}, lora_rank: {{choice: [4, 8]}}}}\n")
    (fault,) = faults_of(tmp_path / "a.yaml", override)
    assert (fault.file, fault.line, fault.field) == (f"--set {override}", None, field)
    assert text in str(fault)


@pytest.mark.parametrize(
    ("fixed", "clock", "expected"),
    [("constant", "epoch", [3, 9]), ("cosine", "progress", [100 / 9, 100 / 3])],
)
def test_rungs_are_epochs_or_with_a_decaying_schedule_shares_of_a_trial_s_own(study_of, fixed, clock, expected):
    study = study_of(f"fixed: {{schedule: {fixed}}}\nspace: {{epochs: {{int: [2, 27]}}}}\n")
    assert study.clock == clock
    assert study.rungs == pytest.approx(expected)


def test_a_grid_holds_every_combination_once(study_of):
    study = study_of(
        """space:
  schedule: {choice: [linear, cosine]}
  weight_decay: {choice: [0.1, 0.2], when: {schedule: cosine}}
  lora_rank: {choice: [4, 8]}
  lora_alpha: {ratio_of: lora_rank, choice: [1, 2]}
  epochs: {int: [1, 5], step: 2}
""",
        "study.sampler=grid",
    )
    drawn = [study.draw(optuna.trial.FixedTrial(point)) for point in study.grid()]
    found = Counter((c.schedule, c.weight_decay, c.lora_rank, c.lora_alpha, c.epochs) for c in drawn)
    ranks = [(rank, rank * factor, epochs) for rank in (4, 8) for factor in (1, 2) for epochs in (1, 3, 5)]
    decays = [("linear", 0.0), ("cosine", 0.1), ("cosine", 0.2)]
    assert found == Counter((*decay, *rest) for decay in decays for rest in ranks)
    assert study.settings.trials == 36


def test_a_whole_configuration_is_placed_in_the_space_or_refused_with_every_reason(study_of):
    study = study_of("fixed: {epochs: 2}\nspace: {lora_rank: {choice: [4, 8]}, learning_rate: {uniform: [0.1, 0.2]}}\n")
    inside = TrialConfig(epochs=2, lora_rank=8, learning_rate=0.15).model_dump()
    assert study.parameters(inside, "there") == {"lora_rank": 8, "learning_rate": 0.15}
    with pytest.raises(InputError) as refusal:
        study.parameters({**inside, "epochs": 3, "lora_rank": 5}, "there")
    assert {fault.field for fault in refusal.value.faults} == {"epochs", "lora_rank", "lora_alpha"}
    assert {fault.file for fault in refusal.value.faults} == {"there"}
