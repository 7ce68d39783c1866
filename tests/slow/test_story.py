"""A prompt for a story gets a story: by rules that are counted, not by taste (`benchmarks/story.py`)."""

from types import ModuleType

import pytest
from scripts import script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
LIMIT = 300
"""Tokens that `llmkit generate` lets a text have where nothing is said."""


@pytest.fixture
def story(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script; its model comes from a wheel, so the registry may be asked."""
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    return script("benchmarks/story.py")


def test_a_story_about_a_cat_is_one_whatever_the_seed(story: ModuleType) -> None:
    """The usual decoding takes the likeliest token: no seed changes it."""
    texts = [story.written({}, 1, LIMIT, seed)[0] for seed in (0, 9)]
    assert len({text.text for text in texts}) == 1
    (row,) = story.measured({}, texts[:1], [LIMIT])
    assert row["stories"] == 1
    assert row["acts"] >= 6
