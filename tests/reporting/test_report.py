"""A study's report, from stored studies that no training has made: what it says, and that nothing in it can act."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import optuna
import pytest
from markdown_it import MarkdownIt
from optuna.distributions import CategoricalDistribution, FloatDistribution

from reranker.command_line.redaction import masked, masked_command
from reranker.metrics import NOWHERE, Picks, Ranks
from reranker.storage.atomic_files import append_line, write_json, write_yaml
from results import history
from results.compare import main as compare_command
from results.report import main
from results.reporting import chart_data
from results.reporting.chart_data import Contest
from results.reporting.charts import apart, cost, label_positions, learning_curves, rank_histogram, reliability
from results.reporting.markdown import escaped, to_markdown
from results.reporting.optuna_plots import knob_figures
from results.reporting.report_content import Content, Step
from results.reporting.report_data import content_of
from results.reporting.report_leaderboard import board_of
from results.reporting.write_report import to_html, write_report
from results.statistics.comparison import compare
from results.statistics.seed_averages import configuration_results
from results.statistics.verdict_text import findings
from results.study.adapter_usage import keep_registered
from results.study.stored_trial import StoredTrial, TrialStatus
from results.study.study_folder import StudyFolder
from tests.present import present
from tests.stored import USERS, Maker, keep_journal

HOSTILE = (
    "</td></text></style><script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\"> @octocat #1"
)


@pytest.fixture
def maker(tmp_path) -> Maker:
    return Maker(tmp_path)


def test_the_head_tells_the_protocol(maker):
    study = maker.baseline("popularity", 0.5).trial(1.0).study
    told = "".join(to_markdown(content_of(study)))
    assert "240 users, 10 candidates each" in told
    assert "split by time" not in told
    manifest = study.read_manifest()
    by_time = {"split": "time", "validation_from": "2018-01-01", "test_from": "2018-06-30"}
    plan = {**manifest["plan"], **by_time, "evaluation": "full", "validation_users": 100}
    study.write_manifest({**manifest, "plan": plan})
    told = "".join(to_markdown(content_of(study)))
    assert "100 users, 240 lists, 10 candidates each" in told
    assert "ranks in the whole catalogue" in told
    assert "split by time: validation from 2018-01-01, test from 2018-06-30" in told


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> StudyFolder:
    """Whatever can carry a text carries one that would act."""
    runs = tmp_path_factory.mktemp("runs")
    made = Maker(runs, "films <script>document.title='hit'", knobs=("model", "learning_rate", "lora_rank"))
    made.baseline("popularity", 0.5).baseline(HOSTILE, 0.8)
    for i, rate in enumerate(np.geomspace(1e-5, 1e-1, 9)):
        made.trial(
            2.2 - abs(np.log10(rate) + 3) * 0.8,
            learning_rate=float(rate),
            lora_rank=[4, 8, 16][i % 3],
            model=HOSTILE if i % 2 else "demo-tiny",
            origin=HOSTILE,
        )
    made.trial(0, status=TrialStatus.FAILED, cause=f"out of memory | `{HOSTILE}`")
    write_yaml(made.study.study_file, f"study: {HOSTILE}\ndata: {{source: demo}}\n")
    record = {
        "time": "2026-11-24",
        "trial": 4,
        "config_hash": HOSTILE,
        "data_fingerprint": "f00d",
        "code_version": "1",
        "users": USERS,
    }
    figures = {"ndcg_at_10": 0.6123, "recall_at_1": 0.4}
    for unseal in ("", HOSTILE):
        against = {HOSTILE: {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.001}}
        line = {**record, "unseal": unseal, "figures": figures, "references": {HOSTILE: figures}, "against": against}
        append_line(made.study.path / "test_readings.jsonl", line)
    write_report(made.study)
    return made.study


def test_a_name_that_is_not_utf_8_and_one_that_a_terminal_obeys_are_shown_all_the_same(tmp_path, capsys):
    """A folder's name is bytes; what is printed of it in a report cannot always be encoded."""
    made = Maker(tmp_path / "runs\udcff", knobs=("model",)).baseline("popularity", 0.5)
    made.trial(1.0, model="mod\x9b31mel\u202e").trial(0, status=TrialStatus.FAILED, cause="no such file: d\udcff")
    study = keep_journal(made.study)
    write_report(study)
    assert "no such file: d?" in study.report.read_text()
    markdown = study.report.with_suffix(".md").read_text()
    assert "runs?" in markdown
    assert not {"\x9b", "\u202e"} & set(markdown)
    assert compare_command([str(study.path)]) == 0
    assert history.main([str(study.path)]) == 0
    shown = capsys.readouterr().out
    assert "mod\\x9b31mel\\u202e" in shown
    assert not {"\x9b", "\u202e", "\udcff"} & set(shown)


@pytest.fixture(scope="module")
def page(hostile) -> Page:
    return Page((hostile.path / "report.html").read_text())


class Page(HTMLParser):
    """What a browser would make of it: tags, attributes, and text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.text = source, ""
        self.tags = Counter[str]()
        self.attributes = list[tuple[str, str, str]]()
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


# Nothing acts


def test_no_text_of_a_study_becomes_a_tag(page):
    assert not {"script", "img", "iframe", "object", "embed", "link", "base", "form", "foreignobject"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert page.text.count("document.title='hit'") > 20  # it is there, as text, also in pictures
    assert page.tags["svg"] >= 8


def test_the_page_needs_nothing_from_elsewhere(page):
    for tag, name, value in page.attributes:
        if name in ("href", "xlink:href", "src", "action", "data"):
            assert value.startswith("#"), (tag, name, value)
    assert not re.findall(r"url\((?!#)|@import", page.source)
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert len(page.source) < 1_500_000


def test_pictures_have_ids_of_their_own_and_a_name(page):
    ids = Counter(value for _, name, value in page.attributes if name == "id")
    assert [name for name, count in ids.items() if count > 1] == []
    pointed = set(re.findall(r"url\(#([^)]+)\)", page.source))
    pointed |= {value[1:] for _, name, value in page.attributes if name == "href"}
    assert len(pointed) > 20
    assert pointed <= set(ids)
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags["svg"] == len(set(labels))


def test_pictures_have_the_colours_and_the_font_of_the_page(page):
    pictures = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", pictures)) == set()
    assert "font-family" not in pictures
    used = set(re.findall(r"var\((--[\w-]+)\)", pictures))
    light, dark = re.findall(r"--paper: #\w+;.*?--scale-5", page.source, re.DOTALL)[:2]
    assert used
    assert all(f"{name}:" in light + "--scale-5:" and f"{name}:" in dark + "--scale-5:" for name in used)


def test_markdown_has_no_html_no_links_and_whole_tables(hostile):
    text = (hostile.path / "report.md").read_text()
    tokens = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or []]
    assert not [t for t in [*tokens, *inline] if t.type in ("html_block", "html_inline", "link_open", "image")]
    said = "".join(t.content for t in inline)
    assert "document.title='hit'" in said
    assert not re.search(r"(?<!`)@octocat", "".join(t.content for t in inline if t.type == "text"))
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 4  # what is proven, two readings, the leaderboard
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "UNSEALED AGAIN" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a|b", r"a\|b"), ("<b>", r"\<b\>"), ("*x* _y_", r"\*x\* \_y\_"), ("1. x", r"1\. x"), ("- x", r"\- x"),
        ("+0.1", "+0.1"), ("two\nlines", "two lines"), ("@me", "@\u200bme"), ("NDCG@10", "NDCG@10"),
        ("#12", "\\#12".replace("#", "#\u200b")), ("http://x.example", r"http\://x.example"), ("[a](b)", r"\[a\]\(b\)"),
    ],
)  # fmt: skip
def test_escaping_for_github(text, expected):
    assert escaped(text) == expected


def browser(*arguments: str) -> str:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no browser here")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--virtual-time-budget=2000",
    ]
    return subprocess.run([program, *flags, *arguments], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.slow
def test_a_browser_runs_nothing_and_a_telephone_need_not_scroll_sideways(hostile, tmp_path):
    inner = hostile.path / "report.html"
    shown = present(re.search(r"<title>(.*?)</title>", browser("--dump-dom", inner.as_uri())))[1]
    assert shown.startswith("films &lt;script&gt;document.title='hit': Trial ")
    frame = tmp_path / "frame.html"
    measure = "const d = f.contentDocument.documentElement; document.title = d.scrollWidth + ' of ' + d.clientWidth"
    frame.write_text(
        f'<iframe id="f" src="{inner.as_uri()}" style="width:390px;height:800px;border:0" onload="{measure}"></iframe>'
    )
    told = browser(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri())
    needed, had = present(re.search(r"<title>(\d+) of (\d+)</title>", told)).groups()
    assert int(had) <= 390
    assert needed == had


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgres://me:hunter2@db/x", "postgres://***@db/x"), ("https://me:hun/ter2@db/x", "https://***@db/x"),
        ("x?api_key=abc&y=1", "x?api_key=***&y=1"), ("MLFLOW_TRACKING_PASSWORD=abc", "MLFLOW_TRACKING_PASSWORD=***"),
        ("NDCG@10 of https://x.example", "NDCG@10 of https://x.example"),
    ],
)  # fmt: skip
def test_secrets_are_masked(text, expected):
    assert masked(text) == expected


def test_a_webhook_is_a_secret_as_a_whole():
    assert masked_command(["s.py", "--webhook", "https://h.example/T0"]) == "s.py --webhook ***"
    assert masked_command(["s.py", "--webhook=https://h.example/T0", "a b"]) == "s.py --webhook=*** 'a b'"


def test_no_report_has_a_secret(hostile):
    for name in ("report.html", "report.md"):
        assert "hunter2" not in (hostile.path / name).read_text()


# What it says


@pytest.mark.parametrize(
    ("baselines", "headline", "tone"),
    [
        ({"popularity": 0.3, "markov": 0.6}, "Trial 1 is proven better than every baseline", "good"),
        ({"popularity": 0.3, "markov": 2.0}, "Trial 1 is the best, but not proven better than markov", "open"),
        ({"popularity": 0.3, "markov": 3.2}, "Trial 1 is the best, but worse than markov", "bad"),
        ({}, "Trial 1 leads; there is no baseline to hold it against", "open"),
    ],
)
def test_the_headline_says_what_is_proven(maker, baselines, headline, tone):
    for name, skill in baselines.items():
        maker.baseline(name, skill)
    content = content_of(maker.trial(1.0).trial(2.0).study)
    assert (content.headline, content.tone) == (headline, tone)
    assert [proof.baseline for proof in content.proofs] == sorted(baselines, key=lambda name: -baselines[name])


def test_the_headline_of_a_study_at_chance(maker):
    content = content_of(maker.baseline("popularity", 0.5).trial(0.0).trial(0.0).study)
    assert content.headline == "Nothing was learned: the best trial is at chance"
    assert content.steps[0].text.startswith("At chance: ")


def test_key_figures_stand_beside_the_best_baseline_and_chance(maker):
    study = maker.baseline("popularity", 0.3).baseline("markov", 0.8).trial(2.0).study
    first, second, gain = content_of(study).tiles  # one trial has no others to be told from
    found = present(compare(study))
    best, markov = study.trial(0).read_reports()[1], study.references()["markov"]
    assert first.label == "NDCG@10"
    assert first.value == f"{best['ndcg_at_10']:.3f}"
    assert first.notes == (
        "{:.3f} to {:.3f} (95%)".format(*found.interval),
        f"best baseline {markov['ndcg_at_10']:.3f} (markov)",
        "chance 0.454",
    )  # fmt: skip
    assert (second.label, second.value) == ("Recall@1", f"{best['recall_at_1']:.3f}")
    assert (gain.label, gain.value) == ("gain over markov", f"{found.against['markov'].mean:+.3f}")


def test_the_cheapest_of_what_can_not_be_told_apart_is_the_first_step(maker):
    content = content_of(maker.baseline("popularity", 0.3).trial(2.2, lora_rank=16).trial(2.0, lora_rank=4).study)
    assert [row.name for row in content.board.rows if row.place] == ["trial 0", "trial 1"]
    assert content.steps[0].text == (
        "Take trial 1 instead: it is not proven worse than the best one, and costs less (4M parameters against 16M parameters)."
    )
    assert "The cheapest of these is trial 1 (1 GFLOPs a list, 4M parameters)." in " ".join(content.proven)
    assert any("python -m results.seal" in step.command for step in content.steps)


def test_the_sealed_test_is_shown_for_ever_and_a_second_reading_is_loud(hostile, page, maker):
    content = content_of(hostile)
    assert [bool(reading.unseal) for reading in content.readings] == [False, True]
    assert content.tiles[0].label == "sealed test"
    assert content.tiles[0].value == "0.612"
    assert content.tiles[0].notes[-1] == "read 2 times: only the first reading counts"
    assert page.text.count("Unsealed again") == 1
    unopened = Page(to_html(content_of(maker.trial(1.0).study)))
    assert f"python -m results.seal {maker.study.path}" in unopened.text
    assert "Unsealed" not in unopened.text


def test_reruns_stand_under_their_trial_and_all_runs_judge_it(maker):
    maker.baseline("popularity", 0.3).trial(1.2).trial(1.6)
    for seed in (1, 2, 3):
        maker.trial(1.5, seed=seed, origin="replicate of 1")
    study = maker.study
    board = board_of(study, configuration_results(study), compare(study))
    names = [row.name for row in board.rows]
    at = names.index("trial 1")
    assert names[at + 1 : at + 5] == [
        "the search's own run (trial 1)", "seed 1 (trial 2)", "seed 2 (trial 3)", "seed 3 (trial 4)"
    ]  # fmt: skip
    scores = [study.trial(number).read_reports()[1]["ndcg_at_10"] for number in (1, 2, 3, 4)]
    assert board.rows[at].value == pytest.approx(np.mean(scores))
    assert board.rows[at].place == "winner"
    assert board.rows[at + 4].note.startswith(
        f"4 seeds, mean {np.mean(scores):.3f}: ±{np.std(scores, ddof=1):.3f} from seed"
    )
    assert [row.rank for row in board.rows] == ["1", "", "", "", "", "2", "3", "4"]


def test_a_baseline_that_was_left_out_stands_in_the_leaderboard_with_the_reason(maker):
    study = maker.baseline("popularity", 0.3).trial(1.0).study
    study.write_manifest(study.read_manifest() | {"left_out_baselines": {"sasrec": "an epoch takes 90.0 minutes"}})
    content = content_of(study)
    row = content.board.rows[-1]
    assert (row.kind, row.name, row.status, row.value, row.rank) == ("baseline", "sasrec", "left out", None, "")
    for shown in (Page(to_html(content)).text, to_markdown(content).replace("\\", "")):
        assert "sasrec is left out: an epoch takes 90.0 minutes" in shown


def test_a_study_in_retrieval_mode_shows_its_ceiling(maker):
    maker.trial(2.0)
    folder = maker.study.trial(0)
    lines = folder.read_reports()
    (folder.path / "epochs.jsonl").unlink()
    for line in lines:
        folder.append_report({**line, "hit": 0.8, "retrieved/ndcg_at_10": 0.71})
    board = content_of(maker.study).board
    cells = dict(zip(board.columns, board.rows[0].cells, strict=True))
    assert (cells["ceiling"], cells["if listed: NDCG@10"]) == ("0.800", "0.710")


# What was learned

REAL = "smollm2-135m"
LESSON = {"applied/skill_steps": 40, "applied/skill_seconds": 260.4, "applied/skill_found": 0.96}


def asked(found: Any, **more: Any) -> dict[str, Any]:
    return {"titles_found": found, "titles_asked": 200, **more}


@pytest.mark.parametrize(
    ("baselines", "skill", "figures", "said"),
    [
        (
            {"popularity": 0.3, "markov": 0.6}, 2.0, asked(0.98),
            "Learned: names 98% of labels (untrained 11%) · ranks better than markov, popularity (proven).",
        ),
        (
            {"popularity": 0.3, "markov": 3.2}, 2.0, asked(0.98, **LESSON),
            "Learned: names 98% of labels (untrained 11%, taught 96%) · ranks better than popularity (proven), "
            + "not proven better than markov.",
        ),
        (
            {"popularity": 1.5}, 0.3, asked(0.98),
            "Learned: names labels (98%, untrained 11%), but is not proven to rank better than popularity.",
        ),
        (
            {"popularity": 1.5}, 0.3, asked(0.12),
            "Learned: names only 12% of labels (guessing 10%, untrained 11%) · is not proven to rank better than "
            + "popularity.",
        ),
        (
            {"popularity": 1.5}, 0.3, asked([0.60, 0.12], **LESSON, ndcg_at_10=[0.5, 0.4]),
            "Learned: names 60% of labels (untrained 11%, taught 96%, 12% after epoch 2) · is not proven to rank "
            + "better than popularity.",
        ),
        (
            {}, 2.0, asked(0.98),
            "Learned: names 98% of labels (untrained 11%) · ranks better than zero-shot smollm2-135m (proven).",
        ),
        ({"popularity": 0.3}, 2.0, {}, ""),  # an older study
        ({"popularity": 0.3}, 2.0, asked(0.1), ""),  # it ranks better than it names labels: the question says nothing
    ],
)  # fmt: skip
def test_the_first_screen_says_what_was_learned(maker, baselines, skill, figures, said):
    for name, level in baselines.items():
        maker.baseline(name, level)
    study = maker.untrained(REAL, **asked(0.11)).trial(skill, figures=figures, model=REAL).study
    content = content_of(study)
    assert content.learned == said
    page = Page(to_html(content)).text.split("What next")[0]
    assert page.count("Learned:") == bool(said)
    assert said in page
    assert said in to_markdown(content).replace("\\", "").split("What next")[0]
    assert [line for line in findings(compare(study)) if line.startswith("Learned")] == [said] * bool(said)


@pytest.mark.parametrize(
    ("found", "headline"),
    [
        (0.97, "Only labels were learned: the best trial names them, and ranks at chance"),
        (0.30, "Nothing was learned: the best trial is at chance"),
    ],
)
def test_the_headline_tells_labels_without_a_rule_from_nothing(maker, found, headline):
    content = content_of(maker.untrained(REAL).trial(0.0, figures=asked(found), model=REAL).study)
    assert (content.headline, content.tone) == (headline, "bad")


def test_what_teaching_labels_took_stands_with_the_seconds_of_trials(maker):
    said = "Teaching the base to name labels took 40 steps and 260 s, once for the study's model."
    maker.baseline("popularity", 0.3).trial(2.0, figures=LESSON).trial(1.5, figures=LESSON)
    content = content_of(maker.study)
    assert content.lesson == said
    assert said in Page(to_html(content)).text.split("Leaderboard")[-1]
    assert said in to_markdown(content).split("### Leaderboard")[1].split("### Diagnosis")[0]
    assert said in findings(compare(maker.study))
    other = {**LESSON, "applied/skill_steps": 120, "applied/skill_seconds": 500.0}
    assert content_of(maker.trial(1.0, figures=other, label_position="before").study).lesson == (
        "Teaching the base to name labels took 2 lessons, 40 to 120 steps each and 760 s in all; "
        "trials with the same model and prompt share one."
    )


def test_nothing_is_said_of_a_lesson_that_was_not_needed(maker):
    none = {"applied/skill_steps": 0, "applied/skill_seconds": 0.0, "applied/skill_found": 0.97}
    assert content_of(maker.trial(2.0, figures=none).trial(1.0).study).lesson == ""


# Odd studies


def _without_trials(maker: Maker) -> None:
    shutil.rmtree(maker.study.path / "trials")


def _all_failed(maker: Maker) -> None:
    for number in maker.study.numbers():
        maker.study.trial(number).clear()
        maker.study.write_status(number, TrialStatus.FAILED, cause="out of memory")


def _without_ranks(maker: Maker) -> None:
    for path in maker.study.path.rglob("ranks.parquet"):
        path.unlink()


def _broken_ranks(maker: Maker) -> None:
    (maker.study.trial(0).path / "ranks.parquet").write_text("no table")


def _broken_journal(maker: Maker) -> None:
    maker.study.journal.write_text("no journal\n")


def _without_journal(maker: Maker) -> None:
    maker.study.journal.unlink()


def _interrupted(maker: Maker) -> None:
    (maker.study.path / "ending.json").unlink()


def _broken_readings(maker: Maker) -> None:
    (maker.study.path / "test_readings.jsonl").write_text("{\n")


def _by_loss(maker: Maker) -> None:
    maker.study.write_manifest(maker.study.read_manifest() | {"metric": "val_loss"})


@pytest.mark.parametrize(
    ("spoil", "headline", "said"),
    [
        (_without_trials, "No trial has started yet", "Begin."),
        (_all_failed, "All 2 trials failed", "out of memory"),
        (_without_ranks, "Trial 1 leads, but nothing could be tested", "no ranks of a finished epoch"),
        (_broken_ranks, "Trial 1 leads, but nothing could be tested", "The comparison could not be made"),
        (_broken_journal, "Trial 1 is proven better than every baseline", "Some pictures could not be made"),
        (_without_journal, "Trial 1 is proven better than every baseline", "no journal of Optuna's"),
        (_interrupted, "So far, trial 1 is proven better than every baseline", "it was interrupted"),
        (_broken_readings, "Trial 1 is proven better than every baseline", "It has been opened, but"),
        (_by_loss, "Trial 1 is proven better than every baseline", "val. loss on validation"),
    ],
)
def test_an_odd_study_has_a_report(maker, spoil, headline, said):
    maker.baseline("popularity", 0.3).trial(1.0).trial(2.0)
    spoil(maker)
    page = Page(write_report(maker.study).read_text())
    assert headline in page.text
    assert said in page.text
    assert headline in (maker.study.path / "report.md").read_text()


def test_a_test_that_was_never_read_is_sealed(maker):
    study = maker.baseline("popularity", 0.3).trial(2.0).study
    study.begin_readings()  # as a search does
    assert content_of(study).sealed
    assert "Not opened yet" in Page(write_report(study).read_text()).text
    study.lost_readings.write_text("{}")
    assert not content_of(study).sealed


def test_a_trial_on_a_part_of_the_lists_stands_last_and_without_a_rank(maker):
    maker.baseline("popularity", 0.5).trial(1.0).trial(2.0, figures={"scored_share": 0.5}).trial(1.5)
    rows = content_of(maker.study).board.rows
    assert [(row.rank, row.name) for row in rows if row.kind == "trial"] == [
        ("1", "trial 2"),
        ("2", "trial 0"),
        ("", "trial 1"),
    ]
    assert rows[-1].name == "trial 1"
    assert rows[-1].note == "scored on 50% of the lists so far, hence without a rank"


def test_where_all_trials_are_on_a_part_they_have_ranks(maker):
    for skill in (1.0, 2.0):
        maker.trial(skill, figures={"scored_share": 0.5})
    rows = content_of(maker.study).board.rows
    assert [(row.rank, row.name) for row in rows if row.kind == "trial"] == [("1", "trial 1"), ("2", "trial 0")]


def test_a_part_that_could_not_be_made_is_said_wherever_the_report_is_read(maker, capsys):
    maker.baseline("popularity", 0.3).trial(1.0)
    keep_journal(maker.study)
    maker.study.write_manifest(maker.study.read_manifest() | {"best_reachable_recall_at_1": "no number"})
    assert main(["films", "--runs", str(maker.study.path.parent)]) == 0
    said = "he verdict could not be made: ValueError: "
    assert f"warning: t{said}" in capsys.readouterr().err
    assert f"T{said}" in Page(maker.study.report.read_text()).text
    assert f"t{said}".replace("_", r"\_") in maker.study.report.with_suffix(".md").read_text()


def test_a_running_study_says_so(maker):
    maker.baseline("popularity", 0.3).trial(2.0)
    (maker.study.path / "ending.json").unlink()
    with maker.study.locked():
        content = content_of(maker.study)
    assert content.headline == "So far, trial 0 is proven better than every baseline"
    assert content.state == "still running"
    assert not any("results.seal" in step.command for step in content.steps)


def test_a_study_whose_search_was_killed_says_what_is_unfinished(maker):
    maker.baseline("popularity", 0.3).trial(2.0).trial(1.0)
    maker.study.write_status(1, TrialStatus.RUNNING)
    (maker.study.path / "ending.json").unlink()
    content = content_of(maker.study)
    assert "2 trials (1 completed, 1 interrupted)" in content.context
    assert [row.status for row in content.board.rows] == ["completed", "interrupted", "", ""]
    assert content.steps[0].text == "Go on with the search: it was interrupted."
    assert not any("results.seal" in step.command or "reranker.rank" in step.command for step in content.steps)


# How to go on with the winner


def commands(content: Content) -> str:
    return "\n".join(step.command for step in content.steps)


def refit(study: StudyFolder, trial: int) -> None:
    study.refit.adapter.mkdir(parents=True)
    write_json(study.refit.path / "recipe.json", {"trial": trial, "epochs": 2, "metric": "ndcg_at_10", "value": 0.8})


def test_a_proven_winner_is_sealed_ranked_with_and_refitted(maker):
    content = content_of(maker.baseline("popularity", 0.3).trial(1.0).trial(2.0).study)
    said = commands(content)
    folder = maker.study.path
    assert f"python -m results.seal {folder}" in said
    assert f"python -m reranker.rank --adapter {folder}/trials/001 --history TITLE" in said
    assert f"python tune/run_search.py --resume {folder} --refit" in said


def test_a_refit_is_what_the_report_leads_to(maker):
    maker.baseline("popularity", 0.3).trial(1.0).trial(2.0)
    refit(maker.study, trial=1)
    content = content_of(maker.study)
    assert f"--adapter {maker.study.path}/refit --history" in commands(content)
    assert "trials/001" not in commands(content)
    assert commands(content).count("--refit") == 1  # to register it
    keep_registered(maker.study, "models:/films/1")
    content = content_of(maker.study)
    assert "mlflow models serve --model-uri models:/films/1 " in commands(content)
    assert "hunter2" not in commands(content)
    assert "--refit" not in commands(content)
    assert "mlflow models serve --model-uri models:/films/1 " in to_html(content).split('id="reproduce"')[1]


def test_a_refit_of_a_trial_that_was_overtaken_is_said(maker):
    maker.baseline("popularity", 0.3).trial(1.0).trial(2.0)
    refit(maker.study, trial=0)
    content = content_of(maker.study)
    text = " ".join(step.text for step in content.steps)
    assert "The refit is of trial 0, and trial 1 is the best now: train that once more" in text
    assert "reranker.rank" not in commands(content)


def test_a_damaged_refit_is_said_and_not_led_to(maker):
    maker.baseline("popularity", 0.3).trial(1.0).trial(2.0)
    refit(maker.study, trial=1)
    (maker.study.refit.path / "recipe.json").write_text("{")
    content = content_of(maker.study)
    assert "recipe.json is damaged" in " ".join(step.text for step in content.steps)
    assert "reranker.rank" not in commands(content)


# Tables and labels that fit


@pytest.mark.parametrize("width", [1280, 900, 390])
def test_the_differences_stand_on_the_page_at_every_width(maker, tmp_path, width):
    maker.baseline("zero-shot some-organisation/some-model-with-a-long-name, no prior", 0.2).trial(1.0).trial(2.0)
    write_report(maker.study)
    measure = (
        "const d = f.contentDocument; const cells = [...d.querySelectorAll('.proofs td .ci')];"
        "document.title = cells.length + ' ' + Math.max(...cells.map(c => c.getBoundingClientRect().right))"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="{maker.study.report.as_uri()}" style="width:{width}px;height:800px;border:0" '
        f'onload="{measure}"></iframe>'
    )
    told = browser(f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900", "--dump-dom", frame.as_uri())
    count, right = present(re.search(r"<title>(\d+) ([\d.]+)</title>", told)).groups()
    assert int(count) == 1
    assert float(right) <= width


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.5, 0.9], [0.1, 0.5, 0.9]),
        ([0.50, 0.52], [0.46, 0.56]),
        ([0.5, 0.5, 0.5], [0.4, 0.5, 0.6]),
        ([0.0, 0.01], [0.0, 0.1]),
        ([0.99, 1.0], [0.9, 1.0]),
    ],
)
def test_labels_stay_as_near_to_their_lines_as_others_allow(values, expected):
    assert apart(values, 0.1, 0.0, 1.0) == pytest.approx(expected)


def test_a_label_that_was_moved_has_a_line_to_what_it_names(maker):
    def leaders(levels: dict[str, float]) -> int:
        trial = StoredTrial(0, {"model": "m"}, TrialStatus.COMPLETED, "", [{"epoch": 1, "ndcg_at_10": 0.9}])
        svg = learning_curves(Contest([trial], "ndcg_at_10", "NDCG@10", 0, frozenset({0}), levels, 20)).svg
        return svg.count('id="curves-leader')

    assert leaders({"a": 0.1, "b": 0.5}) == 0
    assert leaders({"a": 0.50, "b": 0.501}) == 2


def test_markdown_fits_into_a_comment_and_ends_with_a_whole_line(maker):
    for number in range(12):
        maker.trial(0, status=TrialStatus.FAILED, cause=f"{number} " + "`<b>@octocat</b>` " * 3000)
    content = content_of(maker.study)
    assert "### Reproduce" in to_markdown(content)  # long causes are shortened
    steps = (Step("a step", "`<b>@octocat</b>` " * 20),) * 200
    text = to_markdown(replace(content, commands=steps))
    assert 55_000 < len(text.encode()) < 60_000
    assert text.endswith("… the rest is in report.html\n")
    tokens = MarkdownIt("commonmark", {"html": True}).parse(text)
    assert not [child for token in tokens for child in token.children or [] if child.type == "html_inline"]


def test_the_command_names_both_files_and_an_unknown_study_is_the_user_s_fault(maker, capsys):
    maker.trial(1.0)
    keep_journal(maker.study)
    assert main(["films", "--runs", str(maker.study.path.parent)]) == 0
    assert capsys.readouterr().out.split() == [
        str(maker.study.path / "report.html"),
        str(maker.study.path / "report.md"),
    ]
    assert main(["film", "--runs", str(maker.study.path.parent)]) == 2


def test_importing_the_report_draws_nothing_in():
    check = "import sys, results.report; print({'matplotlib', 'optuna', 'jinja2', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "set()\n"


# Pictures


def test_ranks_are_counted_with_ties_in_equal_parts_and_missing_ones_named():
    ranks = Ranks(np.array([0, 0, 1, NOWHERE]), np.array([0, 1, 2, 0]))  # 1; 1 or 2; 2, 3 or 4; not listed
    figure = rank_histogram(ranks, 4, 7, None)
    assert "first for 38% and among the first three for 67%" in figure.caption.replace("66%", "67%")
    assert figure.caption.endswith("For 25% of users the true item is not in the list.")


@pytest.mark.parametrize(
    ("biased", "said"), [(True, "position 3 is favoured most"), (False, "no position is favoured")]
)
def test_a_position_is_favoured_only_where_luck_does_not_explain_it(biased, said):
    rng = np.random.default_rng(0)
    target = rng.integers(0, 8, 2000)
    right = rng.random(2000) < 0.4
    others = rng.integers(0, 8, 2000)
    first = np.where(right, target, np.where(biased & (rng.random(2000) < 0.3), 2, others))
    assert said in label_positions(Picks(target, first, np.full(2000, 0.5)), 8).caption


@pytest.mark.parametrize(("lift", "said"), [(0.2, "too sure of itself"), (0.0, "can be taken at their word")])
def test_confidence_is_held_against_accuracy(lift, said):
    rng = np.random.default_rng(0)
    probability = rng.uniform(0.2, 1, 5000)
    right = rng.random(5000) < probability - lift
    caption = reliability(Picks(np.zeros(5000, np.int64), np.where(right, 0, 1), probability)).caption
    assert said in caption
    assert "temperature" not in caption


def test_what_a_temperature_mends_stands_beside_the_confidence():
    figures = {
        "temperature": 1.4, "calibration_error": 0.12, "calibrated_error": 0.03, "val_loss": 2.1, "calibrated_loss": 1.95
    }  # fmt: skip
    picks = Picks(np.zeros(500, np.int64), np.zeros(500, np.int64), np.full(500, 0.5))
    caption = reliability(picks, figures).caption
    assert "a temperature of 1.40" in caption
    assert "from 12.0% to 3.0% and the log-loss from 2.100 to 1.950" in caption


def test_the_front_has_what_no_trial_beats_in_both():
    def trial(number: int, gigaflops: float, score: float) -> StoredTrial:
        epoch = {"epoch": 1, "ndcg_at_10": score, "seconds": 9 - number, "applied/flops_per_list": 1e9 * gigaflops}
        return StoredTrial(number, {"model": "m"}, TrialStatus.COMPLETED, "", [epoch])

    trials = [trial(0, 10, 0.3), trial(1, 20, 0.5), trial(2, 30, 0.4), trial(3, 40, 0.6), trial(4, 10, 0.2)]
    contest = Contest(trials, "ndcg_at_10", "NDCG@10", 3, frozenset({3, 1}), {}, 20)
    figure = cost(contest)
    assert "those on the line (0, 1, 3)" in figure.caption
    assert "2 · (parameters outside the embeddings) · tokens" in figure.caption
    assert "trial 1: NDCG@10 0.500, 20 GFLOPs" in figure.svg
    assert "second" not in figure.svg


def test_of_many_trials_only_the_best_can_be_pointed_at_and_all_are_drawn(monkeypatch):
    monkeypatch.setattr(chart_data, "_ALONE", 3)
    trials = [
        StoredTrial(
            number,
            {"model": "m"},
            TrialStatus.COMPLETED,
            "",
            [{"epoch": 1, "ndcg_at_10": 0.01 * number, "applied/flops_per_list": 1e9 * number}],
        )
        for number in range(1, 21)
    ]
    contest = Contest(trials, "ndcg_at_10", "NDCG@10", 20, frozenset({20, 19, 18, 17}), {}, 20)
    for figure in (learning_curves(contest), cost(contest)):
        assert sorted(re.findall(r"<title>trial (\d+)", figure.svg)) == ["18", "19", "20"]
    others = re.findall(r'<g id="cost-cost-others-\w+">(.*?)</g>\s*</g>', cost(contest).svg, re.DOTALL)
    assert sorted(part.count("<use") for part in others) == [1, 16]  # of the tie set, and not


def test_importances_tell_a_knob_from_noise(tmp_path):
    rng = np.random.default_rng(1)
    made, scores = Maker(tmp_path, "noise"), {}
    spaces = {"learning_rate": FloatDistribution(1e-6, 1, log=True), "lora_rank": CategoricalDistribution([4, 8, 16])}
    for number in range(40):
        params = {"learning_rate": float(10 ** rng.uniform(-6, 0)), "lora_rank": int(rng.choice([4, 8, 16]))}
        made.journal.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=0.0))
        scores[number] = -abs(np.log10(params["learning_rate"]) + 3) + rng.normal(0, 0.3)
    parallel, signal = knob_figures(made.study.journal, scores, maximise=True, label="NDCG@10")
    assert "learning_rate stands out" in signal.caption
    assert parallel.svg.count("learning_rate") == 1
    shuffled = dict(zip(scores, rng.permutation(list(scores.values())), strict=True))
    assert "no knob stands out" in knob_figures(made.study.journal, shuffled, maximise=True, label="NDCG@10")[1].caption


def test_few_trials_and_a_single_knob_say_why_there_is_no_picture(maker):
    maker.trial(1.0, learning_rate=1e-3).trial(1.5, learning_rate=1e-2)
    parallel, importances = knob_figures(maker.study.journal, {0: 0.1, 1: 0.2}, maximise=True, label="NDCG@10")
    assert (parallel.svg, parallel.caption) == ("", "Needs 4 scored trials; there are 2.")
    assert importances.caption == "Needs 8 scored trials; there are 2."
    for i in range(8):
        maker.trial(1.0, learning_rate=10.0 ** -(i % 5 + 1))
    scores = {number: 0.1 * number for number in range(10)}
    only = knob_figures(maker.study.journal, scores, maximise=True, label="NDCG@10")[1]
    assert only.caption == "Only one knob was varied (learning_rate): there is nothing to weigh."


def test_the_content_is_the_same_each_time(maker):
    study = maker.baseline("popularity", 0.3).trial(1.0).trial(2.0).study

    def page(content: Content) -> str:
        return re.sub(r"Written [\d: -]+", "", to_html(content))

    assert page(content_of(study)) == page(content_of(study))
