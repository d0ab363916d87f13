"""Which validation lists the reports within an epoch are on."""

from reranker.data.example import Example
from reranker.training.report_plan import part_of, part_size


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
