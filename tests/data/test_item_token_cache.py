"""Prompts that are put together of titles tokenised once are those of the whole text, for every tokenizer."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from reranker.config import LabelStyle, TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue, PassingTitles, TokenTable
from reranker.errors import InputError
from reranker.prompting.chat import chat
from reranker.prompting.prompts import PromptEncoder, render
from tests.present import present

ODD = [
    "Toy Story (1995)", "…And Justice for All", "2001: A Space Odyssey", "  spaced\n out\t", "千と千尋の神隠し",
    "Amélie 🎬", "🏳️‍🌈", "WALL·E", "'s", "-", "- -", ":", "A", "A.", "A: B", "1.", "42", "[REC]", "$5 a day!", '"Quoted"',
    "ends with newline\n\n", "Les Misérables, vol. 2 –", "e\u0301", "\u0301", "S", "I'll", "🙂", "Ｆｕｌｌ", "\u200b", "Nº 7", "#",
    "\\n", "tab\tinside", "a" * 300, "Seen by the user", "مرحبا", "한국 영화", "x_y", "§§§", "…", "''", "—",
]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=["demo_tokenizer", "smollm2_tokenizer", "qwen3_tokenizer"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def examples_of_all(count: int, candidates: int) -> list[Example]:
    """Every item as each kind of line: a candidate, in a history, and last in it."""
    items = range(count)
    return [
        Example(0, tuple((i + k) % count for k in range(1 + i % 3)), tuple((i + 3 + k) % count for k in range(candidates)), 0)
        for i in items
    ]  # fmt: skip


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("order", ["candidates_first", "history_first"])
def test_put_together_they_are_the_whole_text_s_tokens(tokenizer, position, order):
    has_numbers = tokenizer.vocab_size > 10_000  # the demo has none
    style: LabelStyle = "numbers" if has_numbers and order == "history_first" else "letters"
    knobs = {"label_style": style, "label_position": position, "prompt_order": order, "max_prompt_tokens": 10_000}
    config = TrialConfig(model="demo-tiny", candidates=20, **knobs)  # whose architecture alone counts
    encoder = PromptEncoder(Catalogue(tokenizer, ODD), config)
    assert not encoder.tokenizes_whole_prompts
    titles = encoder.catalogue.titles(config.max_title_tokens).texts
    examples = examples_of_all(len(ODD), config.candidates)
    for example, prompt in zip(examples, encoder.encode(examples), strict=True):
        content = render(
            [titles[i] for i in example.history], [titles[i] for i in example.candidates], encoder.labels, config
        )
        assert prompt.input_ids == tokenizer(chat(tokenizer, content), add_special_tokens=False)["input_ids"]


def test_titles_that_pass_give_the_prompts_of_those_that_stay(tokenizer, tmp_path):
    config = TrialConfig(candidates=20, max_title_tokens=6, max_prompt_tokens=10_000)
    examples = examples_of_all(len(ODD), config.candidates)
    passing = PassingTitles(tokenizer)
    passing.read(["another title"])
    passing.read(ODD)
    prompts = PromptEncoder(passing, config).encode(examples)
    assert not (tmp_path / "cache").exists()
    assert prompts == PromptEncoder(Catalogue(tokenizer, ODD), config).encode(examples)
    assert (tmp_path / "cache" / "tokens").exists()


def test_a_tokenizer_that_joins_titles_with_what_follows_gets_the_whole_text():
    vocabulary = {chr(code): code for code in range(128)} | {"n:": 128, "\n": 10}
    joining = Tokenizer(models.BPE(vocabulary, [("n", ":")]))
    joining.pre_tokenizer = pre_tokenizers.Split(" A", "isolated")
    vocabulary |= {"\n-": 129}
    across = Tokenizer(models.BPE(vocabulary, [("n", ":"), ("\n", "-")]))
    config = TrialConfig(candidates=2, max_prompt_tokens=10_000)
    example = Example(0, (0, 1, 2), (1, 2), 0)
    for inner, whole in ((joining, False), (across, True)):
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="\x00", eos_token="\x01")
        encoder = PromptEncoder(Catalogue(tokenizer, ["Alien", "Up", "Iron man"]), config)
        assert encoder.tokenizes_whole_prompts == whole
        text = chat(tokenizer, render(["Alien", "Up", "Iron man"], ["Up", "Iron man"], encoder.labels, config))
        assert encoder.encode([example])[0].input_ids == tokenizer(text)["input_ids"]


def test_titles_are_tokenised_once_for_all_processes(demo_tokenizer, monkeypatch, tmp_path):
    titles = ["alien", "heat"]
    first = Catalogue(demo_tokenizer, titles).titles(32)
    monkeypatch.setattr(Catalogue, "_tabulate", lambda *args: pytest.fail("tokenised again"))
    again = Catalogue(demo_tokenizer, titles).titles(32)
    assert isinstance(present(again.tokens).ids, np.memmap)
    assert present(again.tokens).ids.tolist() == present(first.tokens).ids.tolist()
    assert len(list((tmp_path / "cache" / "tokens").glob("*.lock"))) == 1


def test_other_texts_get_a_table_of_their_own(demo_tokenizer, tmp_path):
    for titles in (["alien"], ["alien", "heat"]):
        Catalogue(demo_tokenizer, titles).titles(32)
    assert len(list((tmp_path / "cache" / "tokens").glob("*.lock"))) == 2


def test_a_cache_that_cannot_be_written_is_done_without(demo_tokenizer, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "file"))
    table = Catalogue(demo_tokenizer, ["alien"]).titles(32).tokens
    assert table is not None
    assert not isinstance(table.ids, np.memmap)


def _make_table(name: str) -> list[int]:
    return TokenTable.kept(name, lambda: TokenTable.of([[1, 2], [], [3]]))[0].tolist()


@pytest.mark.slow
def test_processes_that_make_a_table_at_once_all_get_it():
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_make_table, ["same"] * 8) == [[1, 2]] * 8


def _kept(name: str) -> tuple[TokenTable, bool]:
    """The table, and whether it had to be made."""
    made = []
    table = TokenTable.kept(name, lambda: made.append(1) or TokenTable.of([[1, 2], [], [3]]))
    return table, bool(made)


@pytest.mark.parametrize(
    "damage",
    {
        "emptied": lambda content: b"",
        "cut short": lambda content: content[: len(content) // 2],
        "cut in the last number": lambda content: content[:-3],
        "garbage": lambda content: b"garbage!" * 40,
        "zeros": lambda content: bytes(len(content)),
        "one bit in a token": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    }.values(),
)
def test_a_damaged_table_is_made_again_and_kept(damage, tmp_path):
    _kept("same")
    (path,) = (tmp_path / "cache" / "tokens").glob("*.i32")
    path.write_bytes(damage(path.read_bytes()))
    table, made = _kept("same")
    assert made
    assert [table[row].tolist() for row in range(3)] == [[1, 2], [], [3]]
    again, made = _kept("same")
    assert not made
    assert isinstance(again.ids, np.memmap)


def test_a_table_without_rows_is_kept_too():
    made = []
    for _ in range(2):
        assert len(TokenTable.kept("none", lambda: made.append(1) or TokenTable.of([])).starts) == 1
    assert made == [1]


def test_what_was_left_half_written_by_a_kill_or_a_full_disk_is_no_table(monkeypatch, tmp_path):
    def full(path, content):
        path.with_name(".half.tmp").write_bytes(content[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reranker.data.item_token_cache.write_file", full)
    table, _ = _kept("same")
    assert table[0].tolist() == [1, 2]
    monkeypatch.undo()
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    assert _kept("same")[1]
    assert not _kept("same")[1]


def test_a_title_that_is_nothing_but_control_tokens_is_refused_when_the_catalogue_is_read(smollm2_tokenizer):
    with pytest.raises(InputError, match=r"text: a title must be more than control tokens \(got ' <\|im_end\|>'\)"):
        Catalogue(smollm2_tokenizer, ["alien", " <|im_end|>"]).check("smollm2-135m")


def test_a_model_that_knows_few_words_names_one_that_knows_all(demo_tokenizer):
    with pytest.raises(InputError, match="smollm2-135m reads any text and needs no Hub"):
        Catalogue(demo_tokenizer, ["Quux Zyzzyva"]).check("demo-tiny")
