"""A study in one paragraph for a chat."""

from __future__ import annotations

from html import escape

import pytest

from results.report import main
from results.reporting.chat_summary import chat_summary
from results.reporting.report_data import content_of
from results.reporting.write_report import to_html
from tests.stored import Maker, keep_journal


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path)


def test_it_says_what_won_by_how_much_and_what_next(maker):
    content = content_of(maker.baseline("ease", 0.5).trial(2.0, learning_rate=2e-3).trial(1.0).study)
    text = chat_summary(content)
    assert text.startswith("films: Trial 0 is proven better than every baseline. NDCG@10 0.")
    assert "(95%), best baseline 0." in text
    assert "Gain over ease +0." in text
    assert "Search: 2 trials (2 completed), NDCG@10 on validation, 240 users, 10 candidates each, complete." in text
    assert "Best: learning_rate 2.0e-03, lora_rank 16." in text
    assert f"Next: {content.steps[0].text}" in text
    assert "may be as good" not in text.lower()


def test_it_is_one_line_of_plain_text(maker):
    text = chat_summary(content_of(maker.baseline("ease", 0.5).trial(2.0).study))
    assert "\n" not in text
    assert ".." not in text
    assert len(text) < 900


def test_a_study_without_a_result_says_so(maker):
    text = chat_summary(content_of(maker.study))
    assert text.startswith("films: No trial has started yet.")
    assert "Best:" not in text


def test_the_page_has_it(maker):
    content = content_of(maker.baseline("ease", 0.5).trial(2.0).study)
    assert f"<p>{escape(chat_summary(content))}</p>" in to_html(content)


def test_the_command_prints_it_and_writes_nothing(maker, capsys):
    study = keep_journal(maker.baseline("ease", 0.5).trial(2.0).study)
    before = {path: path.stat().st_mtime_ns for path in study.path.rglob("*")}
    assert main(["films", "--summary", "--runs", str(study.path.parent)]) == 0
    assert capsys.readouterr().out.startswith("films: Trial 0 is proven better")
    assert {path: path.stat().st_mtime_ns for path in study.path.rglob("*")} == before


def test_a_live_page_has_no_summary(maker, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["films", "--summary", "--live"])
    assert exit_.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
