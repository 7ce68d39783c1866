"""Chinese letters in pictures: by a font that is known, by any that has them, and by one that came after matplotlib."""

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from llmkit.figures import paper


def font(path: Path, name: str, letters: str) -> Path:
    """A font in which each of some letters is a square."""
    pen = TTGlyphPen(None)
    for at, (x, y) in enumerate(((0, 0), (0, 500), (500, 500), (500, 0))):
        (pen.moveTo if at == 0 else pen.lineTo)((x, y))
    pen.closePath()
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): glyph for letter, glyph in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (600, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({
        "familyName": name, "styleName": "Regular", "fullName": name, "psName": name.replace(" ", "")})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def _no_font_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [one for one in font_manager.fontManager.ttflist if one.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", usual)
    paper.chinese_fonts.cache_clear()
    yield
    paper.chinese_fonts.cache_clear()


@pytest.mark.parametrize("name", ["Noto Sans SC", "Nice Hei", "Some Kai Ti", "Free CJK JP"])
def test_a_font_that_came_later_draws_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = font(tmp_path / f"{name.replace(' ', '')}.ttf", name, "中文a")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    assert paper.chinese_fonts() == (name,)
    assert paper.undrawable(["中文", "学 a"]) == "学"


def test_one_without_chinese_letters_or_that_is_broken_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, broken = font(tmp_path / "PlainHei.ttf", "Plain Hei", "ab"), tmp_path / "BrokenSong.ttf"
    broken.write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(plain), str(broken)])
    assert paper.chinese_fonts() == ()
    assert paper.undrawable(["中 a"]) == "中"


def test_the_best_known_one_comes_first(tmp_path: Path) -> None:
    for name in ("SimHei", "Other Hei", "Noto Sans SC"):
        font_manager.fontManager.addfont(font(tmp_path / f"{name}.ttf", name, "中"))
    assert paper.chinese_fonts() == ("Noto Sans SC", "SimHei")


def test_what_a_chinese_font_lacks_is_drawn_by_the_usual_one(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    import matplotlib

    path = font(tmp_path / "NiceHei.ttf", "Nice Hei", "中")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    with matplotlib.rc_context(paper.style()):
        sheet = paper.sheet(3, 1)
        sheet.suptitle("中 §3 θ")
        sheet.savefig(tmp_path / "picture.png")
    assert [str(one.message) for one in recwarn if "missing from font" in str(one.message)] == []
