"""Figures by segment in the report, its Markdown and a terminal."""

from __future__ import annotations

import io
import re

import numpy as np
import pandas as pd
import pytest

from reranker.command_line.printable_text import Terminal
from reranker.metrics import Ranks
from results import compare
from results.reporting.markdown import to_markdown
from results.reporting.report_data import content_of
from results.reporting.segment_table import SegmentTable
from results.reporting.write_report import to_html, write_report
from results.study.list_facts import ListFacts
from results.study.study_folder import StudyFolder
from tests.stored import USERS, Maker, keep_journal

HOSTILE = "</td><script>document.title='hit'</script> | @octocat \x1b[31m"


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path).baseline("popularity", 0.3).baseline("markov", 0.8)


def liked(study: StudyFolder) -> StudyFolder:
    """The last trial puts the most popular item first wherever it stands."""
    facts, folder = ListFacts.of_study(study), study.trial(study.numbers()[-1])
    users, ranks = folder.read_ranks()
    picks = folder.read_picks()
    assert picks is not None
    stands = facts.candidates == 0
    picks.first[:] = np.where(stands.any(axis=1), stands.argmax(axis=1), picks.first)
    folder.keep_ranks(users, ranks, picks)
    return study


def test_a_segment_s_row_has_its_lists_its_levels_the_best_baseline_and_the_result(maker):
    table = content_of(maker.lists().trial(2.0).study).segments
    assert table.head == (
        "", "segment", "lists", "Recall@1", "NDCG@10", "best baseline", "difference in NDCG@10", "result"
    )  # fmt: skip
    assert [row[:3] for row in table.rows][:5] == [
        ("", "all lists", f"{USERS}"),
        ("history", "short (length 2)", "80"),
        ("history", "middle (length 3)", "80"),
        ("history", "long (length 4)", "80"),
        ("target", "cold (nobody touched it in training)", "20"),
    ]
    everything = table.rows[0]
    assert re.fullmatch(r"0\.\d{3} \(0\.\d{3}–0\.\d{3}\)", everything[3])
    assert re.fullmatch(r"markov 0\.\d{3}", everything[5])
    assert re.fullmatch(r"\+0\.\d{3} \(\+0\.\d{3} to \+0\.\d{3}\)", everything[6])
    assert everything[7] == "better"


def test_a_loss_on_a_segment_stands_on_the_first_screen(maker):
    study = maker.lists().trial(2.0).study
    users, ranks = study.baseline("markov").read_ranks()
    short = np.arange(USERS) < 80
    study.baseline("markov").keep_ranks(users, Ranks(np.where(short, 0, ranks.greater), ranks.ties))
    content = content_of(study)
    (said,) = [line for line in content.proven if line.startswith("WORSE")]
    assert said.startswith("WORSE than markov in NDCG@10 on 80 lists, history: short (length 2): -")
    page = to_html(content)
    assert said in page.split("What next")[0]
    assert '<td class="l worse">worse</td>' in page
    assert "WORSE than markov" in to_markdown(content).split("**What next**")[0]


def test_an_item_that_stands_first_too_often_has_its_shares(maker):
    content = content_of(liked(maker.lists(["Silly Clown"]).trial(2.0).study))
    name, users, first, target, proof = content.segments.items[0]
    assert (name, users) == ("Silly Clown", "50")
    assert re.fullmatch(r"\d+\.\d% \(\d+\)", first)
    assert re.fullmatch(r"\d+\.\d% \(\d+\)", target)
    assert proof == "proven, p < 0.001"
    assert "Proven to stand first too often: Silly Clown (" in to_markdown(content).replace("\\", "")
    assert "of the catalogue" in to_html(content)


def test_a_title_does_nothing_but_be_shown(maker):
    content = content_of(liked(maker.lists([HOSTILE]).trial(2.0).study))
    page, text = to_html(content), to_markdown(content)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;document.title=") == 3  # in a sentence, in a cell, in its title
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    file = io.StringIO()
    console = Terminal(file)
    for table in content.segments.in_terminal():
        console.print(table)
    assert "\x1b" not in file.getvalue()
    assert r"\x1b[31m" in file.getvalue()


def test_a_study_of_before_says_so_in_its_report_without_trouble(maker):
    content = content_of(maker.trial(2.0).study)
    assert content.trouble == ()
    said = "films was begun by an older version, which kept no lists.parquet, so there are no figures by segment"
    assert said in to_html(content)
    assert said in to_markdown(content)


def test_damaged_lists_cost_the_figures_by_segment_alone(maker):
    study = maker.lists().trial(2.0).study
    (study.path / "lists.parquet").write_text("no table")
    content = content_of(study)
    assert content.headline == "Trial 0 is proven better than every baseline"
    assert [line for line in content.trouble if "the figures by segment could not be made" in line]
    assert content.segments == SegmentTable(missing="They could not be made.")


def test_the_figures_lie_beside_the_report_as_csv(maker):
    study = liked(maker.lists(["Silly Clown"]).trial(2.0).study)
    write_report(study)
    by_segment = pd.read_csv(study.path / "segments.csv")
    assert len(by_segment) == 3 * len(content_of(study).segments.rows)  # the trial and two baselines
    everything = by_segment[by_segment["segment"] == "all lists"].set_index("name")
    assert everything.loc["trial 0", "ndcg_at_10"] == pytest.approx(study.trial(0).read_reports()[1]["ndcg_at_10"])
    assert (everything["kind"]["markov"], everything["result"]["markov"]) == ("baseline", "better")
    items = pd.read_csv(study.path / "top_items.csv")
    assert [items[name][0] for name in ("item_id", "title", "result")] == ["i0", "Silly Clown", "too often"]
    assert items["first"].sum() == items["target"].sum() == USERS
    assert items["first_share"].sum() == pytest.approx(1)


def test_a_study_without_a_finished_epoch_has_no_segments(maker):
    assert content_of(maker.lists().study).segments.missing == "There are no ranks of a finished epoch."


def test_compare_shows_who_gains_where_it_is_asked_to(maker, capsys):
    study = keep_journal(liked(maker.lists(["Silly Clown"]).trial(2.0).study))
    assert compare.main([str(study.path)]) == 0
    assert "Who gains" not in capsys.readouterr().out
    assert compare.main([str(study.path), "--segments"]) == 0
    shown = capsys.readouterr().out.split("Who gains in films:")[1]
    assert re.search(r"history +short \(length 2\) +80 +0\.\d{3} \(0\.\d{3}–0\.\d{3}\)", shown)
    assert "Differences allow for all 9 segments being tested together" in shown
    assert re.search(r"Silly Clown +50 +\d+\.\d% \(\d+\)", shown)
    assert "Trial 0 puts " in shown


def test_compare_says_why_an_older_study_has_none(maker, capsys):
    study = keep_journal(maker.trial(2.0).study)
    assert compare.main([str(study.path), "--segments"]) == 0
    assert "films was begun by an older version" in capsys.readouterr().out
