"""How trials came to be, as it is stored: texts of older studies are read, and nothing that somebody wrote is lost."""

from __future__ import annotations

import pytest

from results.study.trial_origin import DRAWN, Origin, OriginKind


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("", DRAWN),
        ("start_from", Origin(OriginKind.START_FROM)),
        ("added", Origin(OriginKind.ADDED)),
        ("warm start", Origin(OriginKind.WARM_START)),
        ("retry of 3", Origin(OriginKind.RETRY, 3)),
        ("replicate of 12", Origin(OriginKind.REPLICATE, 12)),
        ("of qwen3-lora-2 3", Origin(OriginKind.EARLIER_BEST, 3, "qwen3-lora-2")),
        ("replicate of", Origin(OriginKind.OTHER, text="replicate of")),
        ("replicate of 1 2 3", Origin(OriginKind.OTHER, text="replicate of 1 2 3")),
        ("other", Origin(OriginKind.OTHER, text="other")),
        ("<b>by hand</b>", Origin(OriginKind.OTHER, text="<b>by hand</b>")),
    ],
)
def test_a_stored_origin_is_read_and_written_alike(text, origin):
    assert Origin.parse(text) == origin
    assert str(origin) == text
