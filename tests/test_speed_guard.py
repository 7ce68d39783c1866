"""benchmarks/speed/guard.py: what it compares with is there, and half of it is too little."""

import pytest

from benchmarks.speed import guard


def test_each_pair_has_a_landed_ratio_that_is_above_its_least() -> None:
    assert {work for work, ratio in guard.landed().items() if ratio > 2} == set(guard.PAIRS)


@pytest.mark.parametrize(("shares", "passes"), [
    ([1.2, 0.9], True),
    ([0.4, 0.6, 1.0], True),  # the first pair is measured again
    ([0.4, 0.49, 1.0], False),
    ([1.0, 0.2, 0.3], False),
])
def test_a_ratio_below_half_of_it_twice_ends_with_1(
        shares: list[float], passes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    coming = iter(shares)
    monkeypatch.setenv("LLMKIT_DATA", "put back after the test")
    monkeypatch.setattr(guard, "text", lambda folder: None)
    monkeypatch.setattr(guard, "ratio", lambda work: guard.landed()[work] * next(coming))
    if passes:
        guard.main()
    else:
        with pytest.raises(SystemExit, match="less than half as fast"):
            guard.main()
    assert list(coming) == []
