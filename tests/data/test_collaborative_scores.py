import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reranker.artifacts.adapter_files import ADAPTER_COUNTS
from reranker.artifacts.trial_folder import TrialFolder
from reranker.calibration import log_loss
from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import Example
from reranker.data.recommenders import collaborative_scores
from reranker.data.recommenders.collaborative_scores import HISTORY, CollaborativeScores, ItemCounts, Own, TitleScores
from reranker.data_config import DemoData, MovieLensData, TablesData
from reranker.metrics import ranks_of_target, summarise
from reranker.ranking.ranker import Reranker
from reranker.storage.atomic_files import DamagedFile
from reranker.training.sft import fine_tune

SEQUENCES = [np.array(s, dtype=np.int32) for s in ([0, 1, 2], [0, 1, 3], [2, 0, 1], [4, 3])]
COUNTS = ItemCounts.of(SEQUENCES, 6)
FILMS = Path(__file__).parents[3] / "shared" / "data" / "ml-latest-small.zip"
CONFIG = TrialConfig(model="demo-tiny", candidates=10, epochs=1, skill_steps=0, collaborative_scores="counts")


@pytest.fixture(scope="module")
def demo() -> RerankingData:
    return RerankingData.prepare(DemoData(users=120)).sealed()


def features(history: list[int], candidate: int) -> list[float]:
    return COUNTS.features([history], np.array([[candidate]]))[0, 0].tolist()


def features_in_training(sequences: list[np.ndarray], example: Example, items: int) -> np.ndarray:
    counts = ItemCounts.of(sequences, items)
    own = Own.of([example], sequences, counts.latest)
    return counts.features([example.history], np.array([example.candidates]), own)[0]


def test_features_are_counts_of_users_transitions_and_shared_users():
    popular, followed, follows, information, cosine = np.exp(features([0, 1], 2))
    assert popular - 1 == pytest.approx(2), "item 2 has two users"
    assert followed - 1 == pytest.approx(1), "it once followed 1"
    assert follows - 1 == pytest.approx(0), "1 never followed it"
    assert information == pytest.approx((2 + 1) / (3 * 2 / 4 + 1)), (
        "it shares two users with each of 0 and 1, which have three"
    )
    assert cosine - 1 == pytest.approx(2 * 2 / np.sqrt(3 * 2))


def test_a_training_target_is_counted_without_its_own_user():
    alone = ItemCounts.of([sequence for user, sequence in enumerate(SEQUENCES) if user != 0], 6)
    without = alone.features([[1]], np.array([[2]]))[0, 0]
    left_out = features_in_training(SEQUENCES, Example(0, (0, 1), (2, 5), 0), 6)[0]
    assert left_out[[0, 1, 2]] == pytest.approx(without[[0, 1, 2]])


def test_what_else_is_right_is_counted_without_its_own_user():
    first, another = np.array([0, 1, 2], dtype=np.int32), np.array([3, 0, 2], dtype=np.int32)
    target, further = features_in_training([first, another], Example(0, (0,), (1, 2, 4), 0, further=(1,)), 5)[:2]
    assert np.expm1(target[[0, 1]]) == pytest.approx([0, 0]), "nobody else touched 1"
    assert np.expm1(further[[0, 1]]) == pytest.approx([1, 1]), "the other user touched 2, right after 0"


@pytest.mark.parametrize("position", [20, 40, 45, 139])
def test_a_target_before_a_user_s_latest_items_is_counted_without_its_own_user(position):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(300)[:140].astype(np.int32) for _ in range(8)]
    first, others = sequences[0].tolist(), ItemCounts.of(sequences[1:], 300)
    recent, target = np.array(first[position - HISTORY : position]), first[position]
    example = Example(0, tuple(first[:position]), (target, first[0]), 0)
    cosine = np.expm1(features_in_training(sequences, example, 300)[0, 4])
    users = (others.touched[recent] + 1) * max(1, others.touched[target])
    assert cosine == pytest.approx((others.shared.at(recent, np.array(target)) / np.sqrt(users)).sum())


def long_users(folder: Path) -> RerankingData:
    """Ten users of 140 items each."""
    random = np.random.default_rng(0)
    rows = [f"u{user},i{item},{time}" for user in range(10) for time, item in enumerate(random.permutation(250)[:140])]
    (folder / "seen.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    (folder / "items.csv").write_text("item_id,text\n" + "\n".join(f"i{item},Title {item}" for item in range(250)))
    return RerankingData.prepare(
        TablesData(interactions=folder / "seen.csv", items=folder / "items.csv", min_item=1)
    ).sealed()


def test_training_lists_are_scored_as_though_their_own_user_had_not_touched_what_is_right(tmp_path):
    data, config = long_users(tmp_path), TrialConfig(positives=2, examples_per_user=None)
    users, items = data.split.train, len(data.interactions.item_ids)
    counted, known = ItemCounts.of(users, items), data.title_scores(config)
    assert known is not None
    for example in data.training_examples(config, 0)[::50]:
        others, touched = [s for user, s in enumerate(users) if user != example.user], counted.touched.copy()
        touched[[example.candidates[place] for place in (example.target, *example.further)]] -= 1
        alone = replace(ItemCounts.of(others, items), touched=touched, users=counted.users)
        expected = CollaborativeScores(alone, known.scores.weights).scores(
            [example.history], np.array([example.candidates])
        )
        assert example.collaborative == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_however_many_users_there_are_their_latest_two_items_are_counted_as_a_pair(monkeypatch):
    monkeypatch.setattr(collaborative_scores, "_MOST_PAIRS", 30)
    counts = ItemCounts.of([np.array([2, 0, 1], dtype=np.int32)] * 5, 3)
    assert counts.shared.at(np.array([0, 2]), np.array([1, 1])).tolist() == [5, 0]


def test_unknown_items_have_no_counts():
    assert features([0, 1], -1) == [0.0] * 3 + [pytest.approx(0.0)] * 2
    assert features([-1], 2)[1:3] == [0.0, 0.0]


def test_weights_make_the_targets_likely():
    lists = np.array([[3, 2], [5, 1], [4, 0]])
    own = Own.of(
        [Example(0, (0, 1), (3, 2), 1), Example(1, (0,), (5, 1), 1), Example(2, (2,), (4, 0), 1)], SEQUENCES, 3
    )
    fitted = CollaborativeScores.fitted(COUNTS, [[0, 1], [0], [2]], lists, np.array([1, 1, 1]), own)
    scores = fitted.scores([[0, 1], [0], [2]], lists)
    assert (scores[:, 1] > scores[:, 0]).all()
    assert np.exp(scores).sum(axis=1) == pytest.approx(1)


def test_they_come_back_from_bytes_and_are_found_by_title():
    fitted = CollaborativeScores(COUNTS, np.array([1.0, 2.0, 0.5, 1.0, -1.0]))
    titles = ("a", "b  c", "d", "a", "é\n", "f")
    read = TitleScores.from_bytes(TitleScores(fitted, titles).content)
    found = read.of([["a", "unknown"]], [["b c", "d", "é", "nobody's"]])
    expected = fitted.scores([[0, -1]], np.array([[1, 2, 4, -1]]))
    assert found.tolist() == expected.tolist(), "of the two items called a, item 0 has more users"


def test_each_process_gives_the_same_scores():
    data = DemoData(users=120)
    first, second = (RerankingData.prepare(data).sealed().validation(CONFIG) for _ in range(2))
    assert [e.collaborative for e in first] == [e.collaborative for e in second]


def test_the_demo_is_without_by_default_and_other_data_are_with(demo, tmp_path):
    auto = CONFIG.model_copy(update={"collaborative_scores": "auto"})
    assert not demo.adds_collaborative(auto)
    assert demo.title_scores(auto) is None
    assert {e.collaborative for e in demo.validation(auto)} == {()}
    assert {len(e.collaborative) for e in demo.training_examples(CONFIG, 0)} == {10}
    assert {len(e.collaborative) for group in demo.shared_examples(CONFIG, 0, 4) for e in group} == {10}


def test_lists_longer_than_the_letters_have_scores_too(demo):
    config = TrialConfig(candidates=60, label_style="numbers", collaborative_scores="counts")
    assert {len(e.collaborative) for e in demo.validation(config)} == {60}


@pytest.mark.slow
@pytest.mark.skipif(not FILMS.exists(), reason="needs ml-latest-small beside the checkout")
def test_on_films_they_rank_better_than_each_other_baseline():
    data = RerankingData.prepare(MovieLensData(path=FILMS)).sealed()
    config = TrialConfig()
    assert data.adds_collaborative(config)
    ndcg = {name: summarise(ranks)["ndcg_at_10"] for name, ranks in data.baselines(config, "validation").ranks.items()}
    assert ndcg["collaborative"] == pytest.approx(0.676, abs=0.01)
    assert max(value for name, value in ndcg.items() if name != "collaborative") < 0.655
    lists = data.validation(config)
    scores = np.array([e.collaborative for e in lists])
    targets = np.array([e.target for e in lists])
    assert summarise(ranks_of_target(scores, targets))["ndcg_at_10"] == pytest.approx(ndcg["collaborative"], abs=1e-9)
    training = data.training_examples(config, 0)
    trained, scored = (-np.mean([e.collaborative[e.target] for e in examples]) for examples in (training, lists))
    assert trained == pytest.approx(scored, abs=0.1), "without a list's own user they are as sure in training as later"


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> tuple[TrialFolder, dict[str, float]]:
    folder = TrialFolder(tmp_path_factory.mktemp("trial"))
    return folder, fine_tune(CONFIG, demo, folder=folder).figures


def test_a_report_tells_the_model_with_them_and_by_itself(trained, demo):
    _, figures = trained
    lists = demo.validation(CONFIG)
    assert figures["collaborative_loss"] == pytest.approx(
        -np.mean([e.collaborative[e.target] for e in lists]), abs=1e-4
    )
    assert figures["ndcg_at_10"] > figures["alone/ndcg_at_10"]
    assert figures["val_loss"] < figures["alone/val_loss"]


def test_a_kept_adapter_ranks_as_it_was_scored(trained, demo):
    folder, figures = trained
    texts, lists = demo.interactions.item_texts, demo.validation(CONFIG)
    titles = [([texts[i] for i in e.history], [texts[i] for i in e.candidates]) for e in lists]
    rankings = Reranker.load(folder.path, "cpu").rank_many(titles)
    right = np.mean([ranking.order[0] == e.target for ranking, e in zip(rankings, lists, strict=True)])
    losses = [-np.log(ranking.probabilities[e.target]) for ranking, e in zip(rankings, lists, strict=True)]
    assert right == pytest.approx(figures["recall_at_1"])
    scores = [np.log(ranking.probabilities) * figures["temperature"] for ranking in rankings]
    assert log_loss(np.array(scores), np.array([e.target for e in lists])) == pytest.approx(
        figures["val_loss"], abs=1e-4
    )
    assert np.mean(losses) < figures["val_loss"], "by the temperature of these very lists"


def test_damaged_counts_are_refused(trained):
    adapter = trained[0].adapter
    whole = (adapter / ADAPTER_COUNTS).read_bytes()
    try:
        (adapter / ADAPTER_COUNTS).write_bytes(whole[:-9] + bytes(9))
        with pytest.raises(DamagedFile, match=ADAPTER_COUNTS):
            Reranker.load(adapter, "cpu")
        (adapter / ADAPTER_COUNTS).unlink()
        with pytest.raises(DamagedFile, match=ADAPTER_COUNTS):
            Reranker.load(adapter, "cpu")
    finally:
        (adapter / ADAPTER_COUNTS).write_bytes(whole)
    assert "counts" in json.loads((adapter / "reranker.json").read_text())


@pytest.mark.parametrize("objective", ["label_ce", "token_ce"])
def test_plain_and_shared_lists_are_trained_with_the_same_offset(demo, objective):
    from reranker.data.example import NOBODY
    from reranker.modeling.model_cache import BaseModels
    from reranker.prompting.forward_passes import Limits, plain_passes, shared_passes
    from reranker.prompting.prompts import PromptEncoder

    config = CONFIG.model_copy(update={"objective": objective})
    encoder = PromptEncoder(BaseModels().catalogue(config, demo), config)
    group = list(demo.shared_examples(config, 0, 4)[0])
    (plain,) = plain_passes(encoder, group, encoder.encode(group), Limits(None, None))
    correction = np.zeros(len(demo.interactions.item_texts), dtype=np.float32)
    (shared,) = shared_passes(encoder, [group], [encoder.encode_shared(group)], Limits(None, None), correction)
    allowed = torch.ones_like(plain["bias"], dtype=torch.bool)
    for row, example in zip(allowed, group, strict=True):
        row[list(example.excluded)] = False
        assert example.user != NOBODY
    assert plain["bias"].tolist() == [pytest.approx(e.collaborative) for e in group]
    assert torch.equal(plain["bias"][allowed], shared["bias"][allowed])


def test_without_training_lists_popularity_alone_counts():
    no_lists, no_targets = np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64)
    fitted = CollaborativeScores.fitted(COUNTS, [], no_lists, no_targets, Own.nothing(no_lists))
    assert np.exp(fitted.scores([[0]], np.array([[1, 2]])))[0] == pytest.approx([4 / 7, 3 / 7])


def test_the_model_s_weight_counts_in_training_scoring_and_use(demo, tmp_path):
    config = CONFIG.model_copy(update={"model_weight": 1e-6, "list_sharing": 1})
    figures = fine_tune(config, demo, folder=TrialFolder(tmp_path)).figures
    assert figures["val_loss"] == pytest.approx(figures["collaborative_loss"], abs=1e-4)
    assert figures["train_loss"] == pytest.approx(figures["collaborative_loss"], abs=0.25)
    example = demo.validation(config)[0]
    texts = demo.interactions.item_texts
    history, candidates = ([texts[i] for i in items] for items in (example.history, example.candidates))
    ranking = Reranker.load(tmp_path, "cpu").rank(history, candidates)
    expected = np.exp(np.array(example.collaborative) / figures["temperature"])
    assert ranking.probabilities == pytest.approx(expected / expected.sum(), abs=1e-3)
