"""Scoring lists: this project's way against full logits, and against generating the answer. Same model, adapter, lists.

    python -m bench.score [--quick]

Full logits: the adapter beside the base, passes of 8 prompts as they come, logits of every position. Generating: the
same passes, `generate` of the whole answer (label and end of turn) by greedy decoding, which tells the first place
alone; for all places a label and a separator for each candidate. Each measurement is a process of its own with one
thread; the ways take turns. Agreement is the share of lists whose first place is the same.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from bench.common import MODELS, arguments, in_a_process, machine, model_places, padded, some_lists, spread, task, write
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import EncodedLists, score
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder

WAYS = ("ours", "full logits", "generating", "generating all")


def first_places(way: str, model: PeftModel, encoder: PromptEncoder, lists: EncodedLists) -> list[int]:
    """The position of each list's first candidate; -1 where an answer is none of the labels."""
    if way == "ours":
        return [int(i) for i in score(model, lists).argmax(axis=1)]
    found = []
    for start in range(0, len(lists.prompts), 8):
        batch = padded(encoder, lists.prompts[start : start + 8])
        if way == "full logits":
            logits = model(**batch).logits[:, -1, encoder.label_ids]
            found += logits.argmax(dim=1).tolist()
        else:
            longest = len(encoder.answer_ids[0]) if way == "generating" else 2 * len(encoder.label_ids)
            told = model.generate(
                **batch, max_new_tokens=longest, min_new_tokens=longest, do_sample=False, pad_token_id=encoder.pad_id
            )
            answers = told[:, batch["input_ids"].shape[1]].tolist()
            found += [encoder.label_ids.index(a) if a in encoder.label_ids else -1 for a in answers]
    return found


def measure(way: str, model_place: str, count: int) -> dict[str, Any]:
    """Seconds and memory of scoring so many lists one way."""
    torch.set_num_threads(1)
    config, data = task(model_place)
    encoder = PromptEncoder(Catalogue(load_tokenizer(model_place), data.interactions.item_texts), config)
    lists = EncodedLists.of(encoder, some_lists(config, data, count))
    torch.manual_seed(0)
    model = attach_lora(load_base(config, torch.device("cpu")), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():
        first_places(way, model, encoder, EncodedLists(lists.prompts[:8], lists.orders[:8], 1, lists.trie, 0))
        began = time.perf_counter()
        first = first_places(way, model, encoder, lists)
    return {"lists_per_second": count / (time.perf_counter() - began), "first": first}


def main() -> None:
    """Print the table."""
    args = arguments(__doc__, quick="fewer lists, once each").parse_args()
    if args.child:
        way, model, count = args.child
        print(json.dumps(measure(way, model, int(count))))
        return
    repeats = 1 if args.quick else 3
    print(f"{machine()}, one thread\n{repeats} runs each, taking turns; median (lowest–highest)\n")
    print(f"{'base':<24}{'way':<16}{'lists/s':>22}{'ours is':>10}{'agrees with ours':>18}")
    found: dict[str, Any] = {}
    with model_places() as places:
        for name in MODELS:
            count = (32 if args.quick else 128) if "152k" in name else (8 if args.quick else 32)
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way, measured in runs.items():
                    measured.append(in_a_process("bench.score", way, places[name], str(count)))
            found[name] = runs
            speed = {way: [run["lists_per_second"] for run in measured] for way, measured in runs.items()}
            best = statistics.median(speed["ours"])
            for way in WAYS:
                agreed = np.mean(np.array(runs[way][0]["first"]) == np.array(runs["ours"][0]["first"]))
                ratio = best / statistics.median(speed[way])
                same = "no label" if set(runs[way][0]["first"]) == {-1} else f"{agreed:.0%}"
                print(f"{name:<24}{way:<16}{spread(speed[way], 2):>22}{ratio:>9.1f}×{same:>18}", flush=True)
    write(args, "score", found)


if __name__ == "__main__":
    main()
