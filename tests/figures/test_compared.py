"""Pictures of ways side by side: names that a font lacks are numbers, labels are apart, floors have their names."""

from itertools import pairwise
from pathlib import Path

import pytest

from llmkit.figures import compared, paper
from llmkit.figures.compared import Comparing, Point
from llmkit.inference.comparing.sheet import Sheet, spread


def comparing(*names: str, floors: dict[str, float] | None = None) -> Comparing:
    points = [Point(name, (0.7 + i / 100, 0.72 + i / 100), 10.0 ** i) for i, name in enumerate(names)]
    return Comparing("try", "accuracy", "parameters", "log", points, floors or {})


def test_names_without_a_font_are_numbers_in_a_png_and_stand_in_the_svg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paper, "chinese_fonts", tuple)
    shown = comparing("全部", "lora $r$", floors={"majority class": 0.69})
    assert (shown.numbered, shown.missing) == (True, "全部")
    assert [point.name for point in shown.with_numbers().points] == ["[1]", "[2]"]
    for suffix in ("png", "svg"):
        compared.draw(shown, tmp_path / f"a.{suffix}")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert svg.count("全部") >= 2  # at both axes, beside the description
    assert "lora $r$" in svg
    assert "floor: majority class (0.69)" in svg
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plain_names_stay_and_long_ones_are_numbers() -> None:
    assert not comparing("full", "lora").numbered
    assert comparing("full", "x" * 40).numbered


def test_a_table_says_which_number_is_which_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "chinese_fonts", tuple)
    rows = [{"method": "前缀", "runs": 0, "failed": 1, "error": "no"},
            {"method": "全部", "runs": 2, "failed": 0, **spread([0.5, 0.7]), "cost": 3}]
    sheet = Sheet("method", "accuracy", rows, {}, {"majority class": 0.4}, ("cost", "cost", "linear"), "try", "About.")
    table = sheet.markdown()
    assert "| 前缀 | failed: no |" in table
    assert "| [1] 全部 | 0.6000 (0.5000 to 0.7000) |" in table
    assert "no font of this machine has the letters 全部." in table
    assert "| floor: majority class | 0.4000 |" in table


def test_labels_are_apart_and_as_near_as_can_be() -> None:
    assert paper.apart([0.5, 0.5, 0.9], 0.25) == [0.375, 0.625, 0.9]
    assert paper.apart([0.99, 0.98], 0.1) == pytest.approx([1.0, 0.9])
    assert paper.apart([0.2, 0.8], 0.1) == [0.2, 0.8]
    crowded = sorted(paper.apart([0.5] * 30, 0.07))
    assert min(b - a for a, b in pairwise(crowded)) == pytest.approx(1 / 30)
    assert crowded[0] >= 0
    assert crowded[-1] <= 1


def test_a_floor_far_away_takes_no_room_from_what_is_compared() -> None:
    near, far = {"near": 0.69}, {"far": 0.01}
    assert compared.in_sight(comparing("a", "b", floors={**far, **near})) == near
    assert compared.in_sight(comparing("a", floors=far)) == far
