"""Make toy base models with one skill, for the demo: `python -m reranker.base_models.make_demo_models`.

LoRA can't teach a random base anything. So all weights of a base are warmed up once on *the skill* of reranking (find
the candidate that fits, name its label), with the rule "the next item has the genre of the last item". The demo's own
rule (which genre follows which, which items are popular) is left for LoRA to learn.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, set_seed

from reranker.config import LETTERS, TrialConfig
from reranker.data.example import Example
from reranker.data.item_token_cache import Catalogue
from reranker.data.sources.demo import GENRE_OF_ITEM, GENRES, TITLES
from reranker.prompting.prompts import PromptEncoder, render

PAD, UNKNOWN, BEGIN, END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
)
CARD = """\
# demo-{name}

A generated toy: {parameters:,} random weights (Qwen3 architecture, {layers} layers, {hidden} wide, fp32), warmed up for
{steps} steps on synthetic lists by `python -m reranker.base_models.make_demo_models --size {name} --seed {seed}`. It knows
{vocabulary} words: the titles of the generated `demo` catalogue, the words of the prompt, and 52 letters. It has learnt
to name the label of a candidate that has the genre of the last item in the history, and nothing else: not the rule that
the demo's users follow, which is left for LoRA to learn.

Good for showing and testing the search in minutes on a CPU, and for nothing else. It answers the prompt of
`reranker.prompting.prompts` with the label after the title and the candidates before the history; any other layout is foreign to
it. No third-party data or weights went into it.
"""

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """The shape of a demo model, and its warm-up."""

    layers: int
    hidden: int
    heads: int
    feed_forward: int
    steps: int
    learning_rate: float = 3e-3


SIZES = {
    "tiny": Size(layers=2, hidden=64, heads=4, feed_forward=128, steps=1200),
    "small": Size(layers=2, hidden=96, heads=5, feed_forward=224, steps=1200),
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; whitespace and punctuation are dropped, so a label directly follows its title.

    The template's words are taken from prompts rendered in every layout, so they stay in step with the template.
    """
    layouts = [
        TrialConfig(label_position=position, prompt_order=order)
        for position in ("before", "after")
        for order in ("history_first", "candidates_first")
    ]
    rendered = " ".join(render(["Kiss"], ["Kiss"], ["A"], layout) for layout in layouts)
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
    """A model with random weights, fp32.

    The embeddings' standard deviation is 1: if a layer's output drowns a token in the residual stream, the next layer
    can't match two equal tokens, and the warm-up stays at chance.
    """
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        initializer_range=0.05,
        use_cache=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config)
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    return model


@dataclass(frozen=True)
class Batch:
    """Sequences of equal length, and which tokens to predict.

    Attributes:
        ids: token ids [rows, tokens].
        answers: [rows, tokens], true where the token must be predicted from those before it.
        hints: [rows, tokens], an earlier token that the first layer should fetch here, or -100: the last word of a
            title at its label, the last word of the history before the answer.
    """

    ids: Tensor
    answers: Tensor
    hints: Tensor


class Tasks:
    """Draws sequences of random catalogue items that exercise the skill, one task per batch.

    Attributes:
        sizes: candidates in a task's lists. Each task starts with short lists: with 20 candidates from the first step,
            no task is learnt in thousands of steps.
    """

    LARGEST: ClassVar[dict[str, int]] = {"same item": 20, "same genre": len(GENRES), "reranking": 20}

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, rows: int = 32) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = rows
        self.sizes = dict.fromkeys(self.LARGEST, 2)
        self._encoder = PromptEncoder(Catalogue(tokenizer, TITLES), TrialConfig(history_length=len(TITLES)))
        self._titles: IntArray = np.array(tokenizer(TITLES, add_special_tokens=False)["input_ids"])
        self._letters: IntArray = np.array(tokenizer.convert_tokens_to_ids(list(LETTERS)))

    def batch(self, task: str) -> Batch:
        """Draw a batch of this task."""
        if task == "same item":
            return self._same_item(self.sizes[task])
        return self._same_genre(self.sizes[task]) if task == "same genre" else self._reranking(self.sizes[task])

    def widen(self, task: str) -> None:
        """Make the task's lists longer, up to its largest size."""
        self.sizes[task] = min(self.LARGEST[task], self.sizes[task] * 3 // 2 + 1)

    def _same_item(self, size: int) -> Batch:
        """Candidates with random labels, then 20 of them again: name the label of each.

        Drawn with replacement: otherwise elimination could answer the last ones, and the skill isn't learnt.
        """
        listed = self._some(len(TITLES), size)
        places = self.rng.integers(size, size=(self.rows, 20))
        return self._listed_then_asked(listed, np.take_along_axis(listed, places, axis=1), places)

    def _same_genre(self, size: int) -> Batch:
        """Candidates of different genres with random labels, then 20 items: name the label with the item's genre."""
        per_genre = len(TITLES) // len(GENRES)
        genres = self._some(len(GENRES), size)
        listed = genres * per_genre + self.rng.integers(per_genre, size=genres.shape)
        places = self.rng.integers(size, size=(self.rows, 20))
        queries = np.take_along_axis(genres, places, axis=1) * per_genre + self.rng.integers(
            per_genre, size=places.shape
        )
        return self._listed_then_asked(listed, queries, places)

    def _reranking(self, size: int) -> Batch:
        """The product's prompt: the target has the last item's genre. Answers are its label and the end of the turn."""
        length = int(self.rng.integers(1, 9))
        examples = [self._example(length, size) for _ in range(self.rows)]
        prompts = self._encoder.encode(examples)
        answer = len(self._encoder.answer_ids[0])
        ids = torch.tensor([[*p.input_ids, *self._encoder.answer_ids[p.target]] for p in prompts])
        answers, hints = torch.zeros_like(ids), torch.full_like(ids, -100)
        answers[:, -answer:] = 1
        labels = torch.isin(ids, torch.from_numpy(self._letters))
        labels[:, -answer:] = False
        hints[labels] = ids.roll(1, dims=1)[labels]
        hints[:, -answer - 1] = torch.from_numpy(self._titles[[e.history[-1] for e in examples], -1])
        return Batch(ids, answers.bool(), hints)

    def _example(self, length: int, size: int) -> Example:
        order = self.rng.permutation(len(TITLES))
        history, rest = order[:length], order[length:]
        has_genre = GENRE_OF_ITEM[rest] == GENRE_OF_ITEM[history[-1]]
        target = rest[np.argmax(has_genre)]
        no_rivals = size < self.LARGEST["reranking"] or self.rng.random() < 0.5  # else its genre may occur again
        others = rest[~has_genre] if no_rivals else rest[rest != target]
        listed = self.rng.permutation([target, *others[: size - 1]])
        place = int(np.flatnonzero(listed == target)[0])
        return Example(0, tuple(history.tolist()), tuple(listed.tolist()), place)

    def _some(self, of: int, count: int) -> IntArray:
        """Numbers below `of` in random order, without repeats within a row; [rows, count]."""
        return np.argsort(self.rng.random((self.rows, of)), axis=1)[:, :count]

    def _listed_then_asked(self, listed: IntArray, queries: IntArray, places: IntArray) -> Batch:
        """Title, label, title, label, …: the list, then the queries; only the labels of queries are answers."""
        labels = self._letters[self._some(len(LETTERS), listed.shape[1])]
        parts = [
            np.concatenate([self._titles[items], letters[:, :, None]], axis=2).reshape(self.rows, -1)
            for items, letters in ((listed, labels), (queries, np.take_along_axis(labels, places, axis=1)))
        ]
        ids = torch.from_numpy(np.concatenate(parts, axis=1))
        answers, hints = torch.zeros_like(ids), torch.full_like(ids, -100)
        hints[:, 2::3] = ids[:, 1::3]
        answers[:, parts[0].shape[1] + 2 :: 3] = 1
        return Batch(ids, answers.bool(), hints)


def warm_up(model: Qwen3ForCausalLM, tasks: Tasks, steps: int, learning_rate: float) -> None:
    """Train all weights on a mixture of tasks that moves from finding an item to the whole prompt.

    A throwaway head must predict the batch's hints from the first layer. Neither layer is useful without the other:
    without this help the skill takes three times as many steps, and the whole prompt isn't learnt at all.
    """
    reader = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    parameters = [*model.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50, max(0.02, (steps - step) / (0.3 * steps)))
    )
    recent: dict[str, list[float]] = {task: [] for task in tasks.sizes}  # shares of right answers at the current size
    started = time.perf_counter()
    model.train()
    for step in range(steps):
        task = str(tasks.rng.choice(list(recent), p=_mixture(tasks, step / steps)))
        batch = tasks.batch(task)
        output = model(input_ids=batch.ids[:, :-1], output_hidden_states=True)
        predicted, answers = output.logits[batch.answers[:, 1:]], batch.ids[batch.answers]
        loss = F.cross_entropy(predicted, answers)
        hinted = batch.hints[:, :-1] >= 0
        help_loss = F.cross_entropy(reader(output.hidden_states[1][hinted]), batch.hints[:, :-1][hinted])
        optimizer.zero_grad()
        (loss + help_loss).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        right = (predicted.argmax(dim=-1) == answers)[answers != model.config.eos_token_id]
        recent[task].append(right.float().mean().item())
        if len(recent[task]) >= 8 and np.mean(recent[task][-5:]) > 0.85 and tasks.sizes[task] < tasks.LARGEST[task]:
            tasks.widen(task)
            recent[task] = []
        if (step + 1) % 50 == 0:
            shares = (f"{t} {np.mean(r[-10:]):.2f} of {tasks.sizes[t]}" for t, r in recent.items() if r)
            print(f"step {step + 1} of {steps}, {time.perf_counter() - started:.0f} s, right:", *shares, flush=True)


def _mixture(tasks: Tasks, progress: float) -> tuple[float, float, float]:
    """Shares of the three tasks; a task joins once the one before it is mastered with the longest lists."""
    mastered = [tasks.sizes[task] == tasks.LARGEST[task] for task in tasks.sizes]
    if not mastered[0]:
        return 1.0, 0.0, 0.0
    if not mastered[1]:
        return 0.3, 0.7, 0.0
    return (0.1, 0.3, 0.6) if progress < 0.5 else (0.03, 0.07, 0.9)


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
        card = CARD.format(
            name=name,
            parameters=model.num_parameters(),
            layers=size.layers,
            hidden=size.hidden,
            steps=steps,
            seed=arguments.seed,
            vocabulary=len(tokenizer),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    main()
