"""What a registered version is called, by what is proven of the study's winner."""

from __future__ import annotations

import pytest

from tests.stored import Maker
from tune.deployment.model_registry import _alias


@pytest.mark.parametrize(("baseline", "expected"), [(0.3, "champion"), (2.0, "challenger"), (4.0, "challenger")])
def test_only_a_winner_that_is_proven_better_is_a_champion(tmp_path, baseline, expected):
    study = Maker(tmp_path).baseline("popularity", baseline).trial(2.0).study
    assert _alias(study) == expected
