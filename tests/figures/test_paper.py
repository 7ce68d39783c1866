"""What pictures are drawn on."""

from pathlib import Path

import pytest

from llmkit.figures import paper
from llmkit.system.errors import PlaceError


def test_letters_without_a_font_are_known() -> None:
    assert paper.undrawable(["loss", "Größe 1"]) == ""
    assert paper.undrawable(["a\U000e0001b"]) == "\U000e0001"


@pytest.mark.parametrize(("name", "begins"), [("loss.png", b"\x89PNG"), ("loss.svg", b"<?xml")])
def test_a_sheet_becomes_a_file_of_its_kind(tmp_path: Path, name: str, begins: bytes) -> None:
    figure = paper.sheet(2, 1, paper.DARK)
    figure.subplots().plot([1, 2])
    paper.save(figure, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(begins)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(PlaceError, match=r"nowhere.*No such file"):
        paper.save(paper.sheet(1, 1), tmp_path / "nowhere" / "loss.png")


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_file_of_somebody_is_not_written_over_and_one_of_ours_is(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    paper.check_free(path)
    paper.save(paper.sheet(1, 1), path)
    paper.check_free(path)
    path.write_text("mine")
    with pytest.raises(PlaceError, match=f"{name}: is there, and llmkit didn't make it"):
        paper.check_free(path)
