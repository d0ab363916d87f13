"""Teachers know of a training list what they would know of a new one, and say it in probabilities that are right."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from reranker.calibration import fitted_temperature, log_loss
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.recommenders.linear_recommenders import RECOMMENDERS
from reranker.data.teachers.teacher import FOLDS, Calibrated, CrossFitted, check_size
from reranker.data_config import DemoData
from reranker.errors import InputError

CONFIG = TrialConfig(model="demo-tiny", teacher="ease")


class Fixed:
    """A teacher that says the same of the first, second … candidate of each list."""

    def __init__(self, scores: np.ndarray) -> None:
        self.rows = scores

    def scores(self, examples):
        return self.rows[: len(examples)]


def asked(examples: list[Example]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([e.teacher for e in examples]), np.array([e.target for e in examples])


@pytest.mark.parametrize("name", ["ease", "item_knn"])
def test_a_user_is_scored_by_what_the_other_users_did(demo, name):
    items = len(demo.interactions.item_ids)
    teacher = CrossFitted.fitted(name, demo.split.train, items)
    examples = demo.training_examples(CONFIG.model_copy(update={"teacher": "none"}), 0)[:40]
    found = teacher.scores(examples)
    for fold in range(FOLDS):
        others = RECOMMENDERS[name]([s for user, s in enumerate(demo.split.train) if user % FOLDS != fold], items)
        for example, row in zip(examples, found, strict=True):
            if example.user % FOLDS == fold:
                alone = others.scores_of([example.history], np.array([example.candidates]))[0]
                assert row == pytest.approx(alone, abs=1e-9)


@pytest.mark.parametrize("name", ["ease", "item_knn"])
def test_a_teacher_is_as_sure_in_training_as_it_is_right_on_validation_lists(demo, name):
    config = CONFIG.model_copy(update={"teacher": name})
    trained = log_loss(*asked(demo.training_examples(config, 0)))
    plain = config.model_copy(update={"teacher": "none"})
    examples = demo._with_teacher(demo.validation(plain), config)
    scored = log_loss(*asked(examples))
    assert trained < math.log(20) - 0.05
    assert trained == pytest.approx(scored, abs=0.12)


@pytest.mark.parametrize("name", ["ease", "item_knn"])
def test_it_is_no_surer_of_long_histories(name):
    data = RerankingData.prepare(DemoData(users=60, interactions_per_user=60)).sealed()
    long = CONFIG.model_copy(update={"teacher": name, "history_length": 50, "examples_per_user": 3})
    scores, targets = asked(data.training_examples(long, 0))
    assert fitted_temperature(scores, targets) == pytest.approx(1, abs=0.3), "no other is needed"
    short = long.model_copy(update={"history_length": 5})
    assert fitted_temperature(*asked(data.training_examples(short, 0))) == pytest.approx(1, abs=0.3)


def test_its_temperature_makes_the_targets_most_likely():
    rng = np.random.default_rng(0)
    scores = 700 * rng.normal(size=(400, 6)) + 5000
    targets = [int(rng.choice(6, p=np.exp(row / 900) / np.exp(row / 900).sum())) for row in scores - 5000]
    examples = [Example(0, (0,), tuple(range(6)), target) for target in targets]
    calibrated = Calibrated.on(Fixed(scores), examples)
    losses = [log_loss(scores / t, np.array(targets)) for t in np.geomspace(50, 5000, 500)]
    assert log_loss(calibrated.scores(examples), np.array(targets)) <= min(losses) + 1e-6
    assert calibrated.temperature == pytest.approx(900, rel=0.2)


def test_candidates_without_a_score_are_left_out_of_it():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(300, 5))
    scores[:, 4] = np.nan
    scores[:3] = np.nan
    targets = np.where(np.arange(300) < 3, 0, np.nanargmax(np.nan_to_num(scores, nan=-9), axis=1))
    targets[250:] = 4  # not scored: tells nothing
    examples = [Example(0, (0,), tuple(range(5)), int(target)) for target in targets]
    assert Calibrated.on(Fixed(scores), examples).temperature < 0.2 * np.nanstd(scores)
    assert Calibrated.on(Fixed(np.full((4, 5), np.nan)), examples[:4]).temperature == 1.0


def test_examples_in_shared_lists_and_of_their_own_are_taught_alike(demo):
    lists = demo.shared_examples(CONFIG, 0, 8)
    for example in [example for group in lists for example in group][:30]:
        again = demo._with_teacher([example], CONFIG)[0]
        assert example.teacher == pytest.approx(again.teacher, abs=1e-6)
    plain = demo.training_examples(CONFIG.model_copy(update={"teacher": "none"}), 0)
    assert [e.candidates for e in plain] == [e.candidates for e in demo.training_examples(CONFIG, 0)]
    assert not any(e.teacher for e in demo.validation(CONFIG))


def test_a_worker_s_copy_of_the_data_gives_the_same(demo):
    expected = demo.training_examples(CONFIG, 1)
    assert pickle.loads(pickle.dumps(demo)).training_examples(CONFIG, 1) == expected
    assert demo.sealed().training_examples(CONFIG, 1) == expected


def test_a_catalogue_that_is_too_large_for_it_is_refused():
    check_size("ease", 8000)
    check_size("item_knn", 8001)
    with pytest.raises(InputError, match=r"teacher: ease must not have more than 8,000 items; there are 8,001"):
        check_size("ease", 8001)
