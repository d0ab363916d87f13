"""What a resumed training needs of transformers' Trainer behind its public interface; a failure names what has changed.

That a resumed training gives the same numbers is tested in `test_sft.py`.
"""

from __future__ import annotations

import inspect

import pytest
import transformers
from transformers import Trainer

CHANGED = f"transformers {transformers.__version__} has changed what reranker/training/resumable_trainer.py reaches: "


@pytest.mark.parametrize("method", ["_save_optimizer_and_scheduler", "_save_rng_state", "_load_rng_state"])
def test_the_parts_of_a_checkpoint_are_written_and_read_by_methods_of_a_folder(method):
    known = getattr(Trainer, method, None)
    assert known is not None, CHANGED + f"Trainer.{method} is gone"
    names = list(inspect.signature(known).parameters)
    assert len(names) == 2, CHANGED + f"Trainer.{method} takes {names}"


def test_the_trainer_loads_random_numbers_when_it_goes_on():
    calling = [
        name
        for name, method in inspect.getmembers(Trainer, inspect.isfunction)
        if "self._load_rng_state(" in inspect.getsource(method)
    ]
    assert calling, CHANGED + "nothing calls Trainer._load_rng_state any more"
