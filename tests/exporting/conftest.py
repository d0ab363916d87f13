from __future__ import annotations

import pytest

from reranker.artifacts.trial_folder import TrialFolder
from reranker.data.assemble import RerankingData
from reranker.data_config import DemoData
from tests.trained import small_adapter, validation_lists
from tests.yes_no import save_answering_base


@pytest.fixture(scope="package")
def data() -> RerankingData:
    return RerankingData.prepare(DemoData(users=60))


@pytest.fixture(scope="package")
def trial(data, tmp_path_factory) -> TrialFolder:
    return small_adapter(data, tmp_path_factory.mktemp("trial"))


@pytest.fixture(scope="package")
def lists(data, trial) -> list[tuple[list[str], list[str]]]:
    return validation_lists(data, trial)[:20]


@pytest.fixture(scope="package")
def pointwise_trial(data, tmp_path_factory) -> TrialFolder:
    """Asked of each candidate by itself."""
    base = save_answering_base(tmp_path_factory.mktemp("base"))
    return small_adapter(data, tmp_path_factory.mktemp("pointwise"), model=base, scoring="pointwise", candidates=6)
