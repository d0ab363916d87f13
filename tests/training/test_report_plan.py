"""Which validation lists the reports within an epoch are on."""

from dataclasses import replace

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.example import MISSING, Example
from reranker.data_config import DemoData
from reranker.training.report_plan import part_of, part_size
from reranker.training.sft import fine_tune


def lists(users: int, each: int) -> list[Example]:
    return [Example(user, (9,), (1, 2), 0, nth=nth) for user in range(users) for nth in range(each)]


def test_a_part_is_a_quarter_but_at_least_a_hundred():
    assert [part_size(count) for count in (40, 240, 400, 2000)] == [40, 100, 100, 500]
    assert len(part_of(lists(2000, 1))) == 500


def test_a_part_has_all_lists_of_its_users():
    whole = lists(300, 3)
    part = part_of(whole)
    users = {example.user for example in part}
    assert part == [example for example in whole if example.user in users]
    assert (len(users), len(part)) == (75, 225)


def test_users_are_chosen_by_themselves_whatever_number_of_lists_they_have():
    one, three = ({e.user for e in part_of(lists(300, each))} for each in (1, 3))
    assert len(one) == 100
    assert three < one, "of 900 lists a quarter, three a user"


def test_where_no_list_of_a_part_holds_its_target_one_that_does_is_there_too():
    whole = lists(300, 1)
    usual = {example.user for example in part_of(whole)}
    outside = [user for user in range(300) if user not in usual][:2]
    rarely = [e if e.user in outside else replace(e, target=MISSING) for e in whole]
    part = part_of(rarely)
    assert len(part) == 101
    assert usual < {example.user for example in part}
    assert [example.target for example in part if example.user in outside] == [0]


def test_a_first_stage_that_hardly_finds_a_target_leaves_reports_within_an_epoch_their_loss():
    data = RerankingData.prepare(DemoData(users=140, candidate_mode="retrieval", retriever="popularity", seed=9))
    config = TrialConfig(
        model="demo-tiny", candidates=2, epochs=1, examples_per_user=1, effective_batch=16, skill_steps=0
    )
    assert sum(example.target != MISSING for example in data.validation(config)) == 1
    losses = []
    fine_tune(config, data, reports_per_epoch=2, on_report=lambda r: losses.append(r.figures["val_loss"]) or True)
    assert len(losses) == 2
    assert all(0 < loss < 10 for loss in losses)
