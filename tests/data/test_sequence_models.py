"""SASRec and GRU4Rec: what they learn, that they learn the same again, and how they are tuned."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.baselines.baseline_plan import BaselinePlan
from reranker.data.example import Example
from reranker.data.recommenders.catalogue_lists import CatalogueLists
from reranker.data.recommenders.linear_recommenders import markov
from reranker.data.recommenders.ranked_lists import RankedLists
from reranker.data.recommenders.sequence_models import training, tuning
from reranker.data.recommenders.sequence_models.networks import LENGTH, Recipe, SequenceNetwork
from reranker.data.recommenders.sequence_models.training import OutOfTime, SequenceTraining
from reranker.data_config import DemoData, TablesData
from reranker.metrics import Ranks, summarise
from reranker.storage.cache_folder import cache_folder
from tests.poisoned import poison_test, poison_validation

ARCHITECTURES = list(tuning.FIRST)
RING = 12  # items of each of two
CONFIG = TrialConfig(candidates=10)


def interleaved(users: int) -> list[np.ndarray]:
    """Steps along two rings in turn: what comes next is told by the last item but one, and not by the last."""
    rng = np.random.default_rng(0)
    starts = rng.integers(0, RING, (users, 2))
    steps = np.arange(10)
    first, second = [(starts[:, ring, None] + steps // 2) % RING + ring * RING for ring in (0, 1)]
    return list(np.where(steps % 2, second, first).astype(np.int32))


def last_items(sequences: list[np.ndarray]) -> RankedLists:
    """Each sequence's last item among all of its ring."""
    rings = {0: tuple(range(RING)), 1: tuple(range(RING, 2 * RING))}
    lists = [(tuple(s[:-1].tolist()), rings[int(s[-1]) // RING], int(s[-1]) % RING) for s in sequences]
    return RankedLists.of([Example(0, *each) for each in lists])


SEQUENCES = interleaved(200)
TRAINED, LISTS = [sequence[:-1] for sequence in SEQUENCES], last_items(SEQUENCES)


def recall(ranks: Ranks) -> float:
    return summarise(ranks)["recall_at_1"]


def small(architecture: str, **knobs) -> Recipe:
    return Recipe(
        **{"architecture": architecture, "width": 32, "layers": 1, "dropout": 0.1, "learning_rate": 5e-3, **knobs}
    )


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rule_that_no_count_of_pairs_tells_is_learned(architecture):
    assert recall(LISTS.ranks(markov(TRAINED, 2 * RING).scores_of)) < 0.3
    trained = SequenceTraining(small(architecture), TRAINED, 2 * RING, seed=0)
    assert recall(LISTS.ranks(trained.scores_of)) < 0.3
    for _ in range(40):
        trained.train_epoch()
    assert recall(LISTS.ranks(trained.scores_of)) > 0.9


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_seed_gives_the_same_bits_whatever_else_draws(architecture):
    def scores(seed: int) -> np.ndarray:
        trained = SequenceTraining(small(architecture), TRAINED, 2 * RING, seed)
        for _ in range(2):
            trained.train_epoch()
        return trained.scores_of(LISTS.histories, LISTS.candidates)

    torch.manual_seed(1)
    first, state = scores(0), torch.get_rng_state()
    torch.manual_seed(2)
    assert np.array_equal(scores(0), first)
    assert not np.array_equal(scores(1), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left as it was"


def test_a_network_is_trained_and_asked_by_one_thread_and_others_have_theirs_back(monkeypatch):
    threads: list[int] = []
    loss = SequenceTraining._loss
    monkeypatch.setattr(SequenceTraining, "_loss", lambda *args: threads.append(torch.get_num_threads()) or loss(*args))
    try:
        torch.set_num_threads(2)
        SequenceTraining(small("sasrec"), TRAINED, 2 * RING, seed=0).train_epoch()
        assert (set(threads), torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_state_depends_on_nothing_that_follows(architecture):
    network = SequenceNetwork(Recipe(architecture, width=16), 30).eval()
    codes = torch.arange(12).reshape(1, 12)
    other = codes.clone()
    other[:, 7:] += 11
    length = torch.tensor([12])
    assert torch.equal(network(codes, length)[:, :7], network(other, length)[:, :7])
    assert not torch.equal(network(codes, length)[:, 7], network(other, length)[:, 7])


def test_lists_are_scored_by_the_latest_items_and_do_not_depend_on_each_other():
    trained = SequenceTraining(Recipe("sasrec", width=16), TRAINED, 2 * RING, seed=0)
    long = np.random.default_rng(0).integers(0, 2 * RING, 3 * LENGTH)
    candidates = np.arange(4)[None]
    alone = trained.scores_of([long], candidates)
    np.testing.assert_allclose(trained.scores_of([long[-LENGTH:]], candidates), alone)
    assert not np.allclose(trained.scores_of([long[: 2 * LENGTH]], candidates), alone)
    together = trained.scores_of([long[:1], long, long[:7]], np.repeat(candidates, 3, axis=0))
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5)


def test_drawn_items_stand_for_the_whole_catalogue():
    """The loss is that over all items, although popular ones are drawn more often."""
    popular = [
        np.array([0, 1, *rest], dtype=np.int32)
        for rest in np.random.default_rng(0).permutation(38)[:36].reshape(9, 4) + 2
    ]
    trained = SequenceTraining(Recipe("sasrec", width=16, dropout=0.0), popular, 40, seed=0)
    with torch.no_grad():
        trained.network.bias.copy_(torch.linspace(-2, 2, 40))
        inputs, targets = torch.tensor([[0, 1, 5]]), torch.tensor([[1, 5, 9]])
        states = trained.network(inputs, torch.tensor([3]))[0]
        whole = F.cross_entropy(states @ trained.network.items.weight.T + trained.network.bias, targets[0])
        drawn = [trained._loss(inputs, targets, trained._draw(np.random.default_rng(i))).item() for i in range(50)]
    assert np.mean(drawn) == pytest.approx(whole.item(), abs=0.02)


def test_each_transition_is_in_one_window_and_windows_move():
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 999, n).astype(np.int32) for n in (1, 0, 2, 50, 51, 52, 180, 1, 0)]
    wanted = Counter((a, b) for s in sequences for a, b in zip(s[:-1].tolist(), s[1:].tolist(), strict=True))
    cuts = set()
    for epoch in range(3):
        inputs, targets = training._windows(sequences, np.random.default_rng(epoch))
        found = targets >= 0
        assert Counter(zip(inputs[found].tolist(), targets[found].tolist(), strict=True)) == wanted
        assert inputs.shape[1] == LENGTH
        cuts.add(tuple(inputs[:, 0].tolist()))
    assert len(cuts) == 3


def test_sequences_without_a_transition_are_no_fault_of_an_epoch():
    assert np.isnan(SequenceTraining(Recipe("sasrec", width=16), [np.array([3])] * 4, 9, seed=0).train_epoch())


def test_an_epoch_that_does_not_end_in_time_says_how_much_of_it_is_done(monkeypatch):
    times = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    with pytest.raises(OutOfTime) as told:
        SequenceTraining(small("sasrec"), TRAINED, 2 * RING, seed=0).train_epoch(until=3.5)
    assert told.value.share == pytest.approx(4 / 7, abs=0.15)  # four of seven batches, or of eight


# The search


@pytest.fixture
def quick(monkeypatch, own_cache) -> None:
    monkeypatch.setattr(tuning, "FIRST", {name: small(name) for name in ARCHITECTURES})
    monkeypatch.setattr(tuning, "OTHERS", {"dropout": (0.9, 0.0)})
    monkeypatch.setattr(tuning, "PATIENCE", 2)
    monkeypatch.setattr(tuning, "MOST_EPOCHS", 6)


def tuned(seconds: float = 1e6, say=lambda line: None) -> tuning.Tuned:
    return tuning.RecipeSearch(TRAINED, 2 * RING, LISTS, "recall_at_1", seconds, 0, say).best("sasrec")


@pytest.mark.usefixtures("quick")
def test_the_best_recipe_and_epoch_by_the_lists_win():
    lines: list[str] = []
    found = tuned(say=lines.append)
    assert found.figures["recipes_tried"] == len(lines) == 3
    values = [float(line.split("recall_at_1 ")[1].split()[0]) for line in lines]
    assert recall(found.ranks) == pytest.approx(max(values), abs=5e-4)
    again = tuning.retrained(found.figures, TRAINED, 2 * RING, 0)
    assert np.array_equal(LISTS.ranks(again.scores_of).greater, found.ranks.greater)


@pytest.mark.usefixtures("quick")
def test_what_was_trained_is_not_trained_again(monkeypatch):
    first = tuned()
    trained: list[Recipe] = []

    class Noted(SequenceTraining):
        def __init__(self, recipe: Recipe, *rest) -> None:
            trained.append(recipe)
            super().__init__(recipe, *rest)

    monkeypatch.setattr(tuning, "SequenceTraining", Noted)
    again = tuned()
    assert trained == []
    assert again.figures == first.figures
    assert np.array_equal(again.ranks.greater, first.ranks.greater)
    kept = sorted((cache_folder() / "baselines").glob("*/*.json"))
    assert len(kept) == 3
    kept[0].write_text("damaged")
    assert np.array_equal(tuned().ranks.greater, first.ranks.greater)
    assert len(trained) == 1
    tuning.RecipeSearch(TRAINED, 2 * RING, LISTS, "recall_at_1", 1e6, 1, lambda line: None).best("sasrec")
    assert len(trained) == 4, "another seed is another search"


@pytest.mark.usefixtures("quick")
def test_ranks_in_another_catalogue_are_not_those_that_are_kept():
    items, none = 2 * RING, np.empty((len(SEQUENCES), 0), dtype=np.int64)
    histories, targets = [tuple(s[:-1].tolist()) for s in SEQUENCES], np.array([s[-1] for s in SEQUENCES])
    whole, first = np.ones(items, dtype=np.bool_), np.arange(items) < RING
    in_whole, in_first = (
        tuning.RecipeSearch(
            TRAINED,
            items,
            CatalogueLists(histories, none, targets % RING, known),
            "recall_at_1",
            1e6,
            0,
            lambda line: None,
        ).best("sasrec")
        for known in (whole, first)
    )
    assert in_whole.ranks.greater.max() >= RING
    assert in_first.ranks.greater.max() < RING


@pytest.mark.usefixtures("quick")
def test_the_time_limit_ends_the_search_with_the_best_so_far(monkeypatch):
    clock = [0.0]
    epoch = SequenceTraining.train_epoch

    def slow(self, until: float) -> float:
        clock[0] += 10
        if clock[0] > until:
            raise OutOfTime(0.25)
        return epoch(self)

    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    monkeypatch.setattr(SequenceTraining, "train_epoch", slow)
    found = tuned(seconds=25)
    assert found.figures["recipes_tried"] == 1
    assert found.figures["out_of_time"]
    assert 1 <= found.figures["epochs"] <= 2
    clock[0] = 0
    with pytest.raises(tuning.Untrainable, match="an epoch takes 40 s, and 4 s were given"):
        tuned(seconds=4)


@pytest.mark.usefixtures("quick")
def test_a_loss_that_is_no_number_ends_a_recipe(monkeypatch):
    monkeypatch.setattr(SequenceTraining, "train_epoch", lambda self, until: float("nan"))
    with pytest.raises(tuning.Untrainable, match="its loss is no number any more"):
        tuned()


@pytest.mark.usefixtures("quick")
def test_users_of_one_training_item_each_can_not_be_learned_from():
    with pytest.raises(tuning.Untrainable, match="no training sequence has two items"):
        tuning.RecipeSearch([np.array([1])] * 3, 5, LISTS, "ndcg_at_10", 60, 0, lambda line: None).best("sasrec")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_users_who_begin_after_the_training_are_no_fault_of_it(architecture, tmp_path):
    """With a split by time nearly all data have some."""
    clicks = "".join(
        f"u{user},i{(user + 3 * step) % 20},{3 * user + step}\n" for user in range(40) for step in range(6)
    )
    (tmp_path / "clicks.csv").write_text(f"user_id,item_id,timestamp\n{clicks}")
    (tmp_path / "items.csv").write_text("item_id,text\n" + "".join(f"i{item},Item {item}\n" for item in range(20)))
    files = {"interactions": tmp_path / "clicks.csv", "items": tmp_path / "items.csv"}
    data = RerankingData.prepare(TablesData(**files, split="time"))
    assert not all(map(len, data.split.train))
    for part in ("validation", "test"):
        ranks = data.baselines(CONFIG, part, BaselinePlan((architecture,))).ranks[architecture]
        assert len(ranks.greater) == len(data.split.held_out(part)) > 0


@pytest.mark.usefixtures("quick")
def test_nothing_depends_on_the_test_items_but_the_test_lists():
    data = RerankingData.prepare(DemoData(users=120))
    plan = BaselinePlan(("sasrec",))
    found = data.baselines(CONFIG, "validation", plan)
    sealed = poison_test(data).sealed().baselines(CONFIG, "validation", plan)
    assert np.array_equal(found.ranks["sasrec"].greater, sealed.ranks["sasrec"].greater)
    other = poison_validation(data).baselines(CONFIG, "validation", plan)
    assert not np.array_equal(found.ranks["sasrec"].greater, other.ranks["sasrec"].greater)


@pytest.mark.usefixtures("quick")
def test_the_test_lists_are_ranked_by_the_recipe_of_validation_trained_on_all_before_them(monkeypatch):
    data = RerankingData.prepare(DemoData(users=120))
    figures = data.baselines(CONFIG, "validation", BaselinePlan(("sasrec",))).figures
    monkeypatch.setattr(tuning, "RecipeSearch", None)  # nothing is chosen by these lists
    found = data.baselines(CONFIG, "test", BaselinePlan(("sasrec",), tuned=figures))
    lists = RankedLists.of(data.test(CONFIG))
    on_all = tuning.retrained(figures["sasrec"], data.split.before("test"), len(data.interactions.item_ids), 0)
    assert np.array_equal(found.ranks["sasrec"].greater, lists.ranks(on_all.scores_of).greater)
