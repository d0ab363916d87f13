"""Whether a GPU ranks as a CPU does: the same lists, model and adapter on both, in fp32 and in bf16.

    python -m bench.agreement [--quick]

The adapter's weights are random. Told are the lists whose whole ranking is the same, those whose first
place is, and the largest difference of a label's log-probability. In fp32 rankings may differ where two candidates are
closer than rounding. Without a GPU the other device is a CPU too, to show that the bench works: those figures mean nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from peft import PeftModel

from bench.common import arguments, machine, some_lists, task, write
from reranker.data.item_token_cache import Catalogue
from reranker.evaluation.scoring import EncodedLists, FloatArray, score
from reranker.modeling.lora.lora import attach_lora
from reranker.modeling.model_loading import load_base, load_tokenizer
from reranker.prompting.prompts import PromptEncoder

LISTS = 200
CPU = torch.device("cpu")


def with_adapter(place: str, device: torch.device, dtype: torch.dtype) -> PeftModel:
    """The base with a random adapter, the same one on every device and in every dtype."""
    config, _ = task(place)
    base = load_base(config, CPU).to(device=device, dtype=dtype)
    model = attach_lora(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                drawn = 0.02 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn.to(parameter))
            elif "lora_A" in name:
                drawn = torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5
                parameter.copy_(drawn.to(parameter))
    return model


def compared(scores: FloatArray, reference: FloatArray) -> dict[str, float]:
    """How alike two devices' scores are."""
    orders, expected = (np.argsort(-of_device, axis=1, kind="stable") for of_device in (scores, reference))
    return {
        "same ranking": float((orders == expected).all(axis=1).mean()),
        "same first place": float((orders[:, 0] == expected[:, 0]).mean()),
        "largest difference": float(np.abs(scores - reference).max()),
    }


def main() -> None:
    """Score on both devices, and print a row a dtype."""
    parser = arguments(__doc__, "a toy and 20 lists")
    args = parser.parse_args()
    place, count = ("demo-tiny", 20) if args.quick else ("smollm2-135m", LISTS)
    other = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = False
    config, data = task(place)
    encoder = PromptEncoder(Catalogue(load_tokenizer(place), data.interactions.item_texts), config)
    lists = EncodedLists.of(encoder, some_lists(config, data, count))
    reference = score(with_adapter(place, CPU, torch.float32), lists)
    print(f"{machine()}: {place}, {count} lists of {config.candidates}, against the CPU in fp32")
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found[name] = compared(score(with_adapter(place, other, dtype), lists), reference)
        print(f"  {other.type} {name}: " + ", ".join(f"{what} {value:.4g}" for what, value in found[name].items()))
    write(args, "agreement", {"model": place, "lists": count, **found})


if __name__ == "__main__":
    main()
