"""What a configuration and its data allow alone and not together is refused in a sentence, before anything is loaded."""

from __future__ import annotations

import pytest

from reranker.config import TrialConfig, build_trial_config
from reranker.data.agreement import check_agreement
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData, MovieLensData
from reranker.errors import InputError
from reranker.training.sft import fine_tune

RETRIEVED = DemoData(users=40, candidate_mode="retrieval", candidate_order="retriever", retriever="markov")


def test_a_prior_of_labels_that_tell_the_retriever_s_rank_is_no_prior():
    config = TrialConfig(model="demo-tiny", label_prior="divide")
    with pytest.raises(InputError, match="label_prior: must be keep with candidate_order: retriever"):
        fine_tune(config, RerankingData.prepare(RETRIEVED))
    check_agreement(config, RETRIEVED.model_copy(update={"candidate_order": "shuffled"}))
    check_agreement(config.model_copy(update={"label_prior": "keep"}), RETRIEVED)


def test_a_teacher_whose_scores_are_added_anyway_or_that_has_none_is_refused(tmp_path):
    config, demo = TrialConfig(model="demo-tiny", teacher="collaborative"), DemoData(users=40)
    movies = MovieLensData()
    check_agreement(config, demo)
    check_agreement(config.model_copy(update={"collaborative_scores": "none"}), movies)
    with pytest.raises(InputError, match="teacher: collaborative needs collaborative_scores: none"):
        check_agreement(config, movies)
    with pytest.raises(InputError, match=r"teacher: file needs data\.teacher_scores"):
        check_agreement(config.model_copy(update={"teacher": "file"}), demo)
    check_agreement(
        config.model_copy(update={"teacher": "file"}),
        demo.model_copy(update={"teacher_scores": tmp_path / "scores.csv"}),
    )


@pytest.mark.parametrize(
    ("knobs", "rule"),
    [
        ({"teacher": "ease", "objective": "token_ce"}, "which does not compare candidates"),
        ({"teacher": "collaborative", "collaborative_scores": "counts"}, "which the model is added to anyway"),
    ],
)
def test_a_teacher_that_no_training_could_follow_is_refused(knobs, rule):
    with pytest.raises(InputError, match=rule):
        build_trial_config({"model": "demo-tiny", **knobs})
