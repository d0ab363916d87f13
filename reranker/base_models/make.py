"""The demo's titles and the prompt's words → toy base models with one skill: `python -m reranker.base_models.make`.

LoRA can't teach a random base anything, so a base is warmed up once, with all its weights, on *the skill* of reranking
(find the candidate that fits, name its label) by the rule "what comes next has the genre of the last item". The
demo's own rule, which genre follows which and which items are popular, stays for LoRA to learn.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from reranker.candidates import Example
from reranker.config import LETTERS, TrialConfig
from reranker.datasets.demo import GENRE_OF_ITEM, GENRES, TITLES
from reranker.prompts import PromptEncoder, render

PAD, UNKNOWN, BEGIN, END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
"""ChatML. In the tail of a prompt the whitespace control must leave the newlines inside the quotes alone."""

_QUESTION_TOKENS = 13  # from the end of the history to the end of the prompt, where the answer is due

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    layers: int
    hidden: int
    heads: int
    feed_forward: int
    steps: int
    learning_rate: float = 3e-3


SIZES = {
    "tiny": Size(layers=2, hidden=64, heads=2, feed_forward=192, steps=600),
    "small": Size(layers=3, hidden=96, heads=3, feed_forward=240, steps=600),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; whitespace and punctuation vanish, so a label follows its title directly.

    The template's words are read off rendered prompts, in every layout, so that they follow the template.
    """
    layouts = [
        TrialConfig(label_position=position, prompt_order=order)
        for position in ("before", "after")
        for order in ("history_first", "candidates_first")
    ]
    rendered = " ".join(render(["Kiss"], ["Kiss"], layout) for layout in layouts)
    words = re.findall(r"\w+", rendered)
    titles = [word for title in TITLES for word in title.split()]
    ordered = dict.fromkeys([PAD, UNKNOWN, BEGIN, END, *LETTERS, "system", "user", "assistant", *words, *titles])
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(ordered)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Split(Regex(r"\W+"), behavior="removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=END,
        additional_special_tokens=[BEGIN],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def build_model(size: Size, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """Random weights, fp32, but for the circuit of `_seed_induction`."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=size.hidden // size.heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        attention_bias=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        initializer_range=0.02,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    _seed_induction(model)
    return model


def _seed_induction(model: Qwen3ForCausalLM) -> None:
    """Give the first two layers the beginnings of an induction circuit: "which label followed this title?".

    From random weights this size stayed at chance for 500 steps, since neither layer is of use without the other; so
    seeded, it is right 9 times of 10 after 20. In the first layer one head looks one token back (the rotation of its
    constant query and key agree at distance 1) and copies what stands there into the second half of an orthonormal
    basis of the residual stream. In the second, one head looks from a title to the tokens that carry its copy, in those
    dimensions alone whose rotation over a prompt is less than a radian, and adds the label that stands there.
    Elhage et al., A Mathematical Framework for Transformer Circuits, 2021, describe such circuits.
    """
    config = model.config
    width, head, half = config.hidden_size, config.head_dim, config.head_dim // 2
    scale = config.initializer_range
    turns = [config.rope_parameters["rope_theta"] ** (-i / half) for i in range(half)]  # radians a token
    slow = [i for i, turn in enumerate(turns) if turn * 120 < 1]
    here, copied = torch.linalg.qr(torch.randn(width, width))[0].split(width // 2)
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    carried = min(head, width // 2)
    with torch.no_grad():
        for norm in (first.q_norm, first.k_norm, second.q_norm, second.k_norm):
            norm.weight.fill_(2.0 if norm in (first.q_norm, first.k_norm) else 1.5)
        first.q_proj.weight[: 2 * head] *= 0.1
        first.k_proj.weight[: 2 * head] *= 0.1
        for start, distance in ((0, 1), (head, _QUESTION_TOKENS)):
            for i, amount in enumerate((1.0, 1.0, 0.7, 0.5)):
                first.k_proj.bias[start + i] = amount
                first.q_proj.bias[start + i] = amount * math.cos(distance * turns[i])
                first.q_proj.bias[start + half + i] = -amount * math.sin(distance * turns[i])
        second.q_proj.weight[:head] = 0
        second.k_proj.weight[:head] = 0
        for row, slot in enumerate([*slow, *(half + i for i in slow)]):
            second.q_proj.weight[slot] = here[row]
            second.k_proj.weight[slot] = copied[row]
        for attention, start, into, strength in (
            (first, 0, copied, 4 * scale),
            (first, head, here, 2 * scale),
            (second, 0, here, 8 * scale),
        ):
            attention.v_proj.weight[start : start + head] = 0
            attention.v_proj.weight[start : start + carried] = here[:carried]
            attention.o_proj.weight[:, start : start + head] = 0
            attention.o_proj.weight[:, start : start + carried] = strength * into[:carried].T


@dataclass(frozen=True)
class Batch:
    """Equally long sequences, and the positions that are to be predicted: token ids, mask, both [rows, tokens]."""

    ids: Tensor
    predicted: Tensor


class Tasks:
    """Random catalogue items → sequences that exercise the skill, one task a batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, rows: int = 32) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = rows
        self.config = TrialConfig(model="demo", candidates=20, history_length=len(TITLES))
        self.encoder = PromptEncoder(tokenizer, TITLES, self.config)
        encoded = tokenizer(TITLES, add_special_tokens=False)["input_ids"]
        self.titles: IntArray = np.array(encoded)
        self.letters: IntArray = np.array(tokenizer.convert_tokens_to_ids(list(LETTERS)))

    def same_item(self) -> Batch:
        """20 candidates with random labels, then 20 of them again: name each one's label.

        Drawn with replacement: otherwise the last ones could be answered by elimination, and the skill isn't learnt.
        """
        listed = self._sample(20)
        asked = self.rng.integers(20, size=(self.rows, 20))
        return self._listed_then_asked(listed, np.take_along_axis(listed, asked, axis=1), asked)

    def same_genre(self) -> Batch:
        """One candidate of each genre with random labels, then 20 items: name the label of the one of their genre."""
        per_genre = len(TITLES) // len(GENRES)
        genres = self.rng.permuted(np.tile(np.arange(len(GENRES)), (self.rows, 1)), axis=1)
        listed = genres * per_genre + self.rng.integers(per_genre, size=genres.shape)
        asked = self.rng.integers(len(GENRES), size=(self.rows, 20))
        queries = np.take_along_axis(genres, asked, axis=1) * per_genre + self.rng.integers(per_genre, size=asked.shape)
        return self._listed_then_asked(listed, queries, asked)

    def reranking(self) -> Batch:
        """The prompt of the product: the target has the last item's genre. Predicted are its label and the turn's end."""
        length = int(self.rng.integers(1, 9))
        examples = [self._example(length) for _ in range(self.rows)]
        prompts = self.encoder.encode(examples)
        ids = torch.tensor([[*p.input_ids, *self.encoder.answer_ids[p.target]] for p in prompts])
        predicted = torch.zeros_like(ids)
        predicted[:, -len(self.encoder.answer_ids[0]) :] = 1
        return Batch(ids, predicted.bool())

    def _example(self, length: int) -> Example:
        order = self.rng.permutation(len(TITLES))
        history, rest = order[:length], order[length:]
        fits = GENRE_OF_ITEM[rest] == GENRE_OF_ITEM[history[-1]]
        place = int(np.argmax(fits))
        if self.rng.random() < 0.5:  # the only one that fits, or one among others
            rest, place = np.concatenate([rest[place : place + 1], rest[~fits]]), 0
        listed = np.concatenate([rest[place : place + 1], np.delete(rest, place)[: self.config.candidates - 1]])
        listed = self.rng.permutation(listed[: self.config.candidates])
        target = int(np.flatnonzero(listed == rest[place])[0])
        return Example(0, tuple(history.tolist()), tuple(listed.tolist()), target)

    def _sample(self, count: int) -> IntArray:
        return np.argsort(self.rng.random((self.rows, len(TITLES))), axis=1)[:, :count]

    def _listed_then_asked(self, listed: IntArray, queries: IntArray, asked: IntArray) -> Batch:
        labels = self.letters[np.argsort(self.rng.random((self.rows, len(LETTERS))), axis=1)[:, : listed.shape[1]]]
        answers = np.take_along_axis(labels, asked, axis=1)
        parts = [
            np.concatenate([self.titles[items], names[:, :, None]], axis=2).reshape(self.rows, -1)
            for items, names in ((listed, labels), (queries, answers))
        ]
        ids = torch.from_numpy(np.concatenate(parts, axis=1))
        predicted = torch.zeros_like(ids)
        predicted[:, parts[0].shape[1] + 2 :: 3] = 1
        return Batch(ids, predicted.bool())


def warm_up(model: Qwen3ForCausalLM, tasks: Tasks, steps: int, learning_rate: float) -> None:
    """Train all weights on a mixture that moves from finding an item to the whole prompt."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, max(0.02, (steps - step) / (0.3 * steps)))
    )
    kinds: dict[str, Callable[[], Batch]] = {
        "same item": tasks.same_item,
        "same genre": tasks.same_genre,
        "reranking": tasks.reranking,
    }
    losses: dict[str, list[float]] = {kind: [] for kind in kinds}
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        kind = tasks.rng.choice(list(kinds), p=_mixture(step / steps))
        batch = kinds[kind]()
        logits = model(input_ids=batch.ids[:, :-1]).logits
        wanted = batch.predicted[:, 1:]
        loss = F.cross_entropy(logits[wanted], batch.ids[:, 1:][wanted])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses[kind].append(loss.item())
        if (step + 1) % 100 == 0:
            means = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in losses.items() if values)
            print(f"step {step + 1} of {steps}, {time.perf_counter() - started:.0f} s: loss {means}", flush=True)
            losses = {name: [] for name in kinds}


def _mixture(progress: float) -> tuple[float, float, float]:
    """Shares of the three tasks at a point of the warm-up, 0 to 1."""
    if progress < 0.1:
        return 1.0, 0.0, 0.0
    if progress < 0.25:
        return 0.4, 0.6, 0.0
    return (0.1, 0.3, 0.6) if progress < 0.6 else (0.05, 0.1, 0.85)


def main() -> None:
    """Make the named sizes and write each as a folder that `from_pretrained` reads."""
    parser = argparse.ArgumentParser(description="make the demo's base models")
    parser.add_argument("--size", choices=list(SIZES), action="append", help="default: all")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder that gets demo-<size>/")
    parser.add_argument("--steps", type=int, help="of the warm-up; default: the size's own")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.size or SIZES:
        size = SIZES[name]
        set_seed(arguments.seed)
        tokenizer = build_tokenizer()
        model = build_model(size, tokenizer)
        steps = arguments.steps or size.steps
        warm_up(model, Tasks(tokenizer, arguments.seed), steps, size.learning_rate)
        folder = arguments.output / f"demo-{name}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main()
