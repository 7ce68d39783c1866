"""Chinese in pictures: by a font that is known, by any that has its letters, by one that came after matplotlib."""

import logging
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from llmkit.figures import compared, curves, heat, labels, paper, planned
from llmkit.system.language import FOLDER, read, translate

CHINESE = "".join(sorted({letter for text in read(FOLDER / "zh.po").values() for letter in text if letter > "\xff"}))
"""All letters that a label may have."""


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
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    monkeypatch.setattr(paper, "PACKAGE", "no_such_package")
    for cached in (paper.chinese_fonts, labels._tell):
        cached.cache_clear()
    yield
    for cached in (paper.chinese_fonts, labels._tell):
        cached.cache_clear()


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


def test_the_font_of_the_extra_is_found_without_running_its_code(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fonts_of_a_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit")
    font(folder / "NotoSansSC-Regular.ttf", "Noto Sans SC", "中")
    font(folder / "NotoSerifSC-Regular.ttf", "Noto Serif SC", "中")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(paper, "PACKAGE", folder.name)
    assert paper.chinese_fonts() == ("Noto Sans SC",)


@pytest.fixture
def chinese(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages are in Chinese, and there is a font with all of their letters."""
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    font_manager.fontManager.addfont(font(tmp_path / "NotoSansSC.ttf", "Noto Sans SC", CHINESE))


LOSS = [{"event": "evaluate", "step": 0, "loss": 6.0}, {"event": "train", "step": 1, "loss": 5.0, "grad_norm": 1.0},
        {"event": "train", "step": 2, "loss": 4.0, "grad_norm": 2.0}]
METHODS = compared.Comparing("b: accuracy by tuning method", "accuracy", "parameters that train", "log",
                             [compared.Point("lora", (0.5, 0.7), 10.0)], {"majority class": 0.4})
PLAN = planned.Planned("小", {"weights": 2e9}, 4e9, {"training": 7200.0})


def drawn(folder: Path) -> list[str]:
    """Three pictures as SVG, whose texts stay texts."""
    curves.draw(curves.panels(LOSS, 4.5), "b", folder / "loss.svg")
    compared.draw(METHODS, folder / "compare.svg")
    planned.draw(PLAN, folder / "plan.svg")
    return [(folder / f"{name}.svg").read_text(encoding="utf-8") for name in ("loss", "compare", "plan")]


@pytest.mark.usefixtures("chinese")
def test_labels_legends_and_descriptions_are_chinese(tmp_path: Path) -> None:
    loss, methods, plan = drawn(tmp_path)
    for words in ("训练", "验证", "步", "梯度范数", "基线（floor）: 只凭词频"):
        assert f">{words}<" in loss, words
    assert ("loss 随步数的变化：训练：第 1 步 5，第 2 步 4，最低 4（第 2 步），最高 5（第 1 步）; "
            "验证：第 0 步 6; ") in loss
    for words in ("b：各微调方法的 accuracy", "训练的参数", "基线（floor）: 多数类 (0.4)"):
        assert f">{words}<" in methods, words
    assert ("b：各微调方法的 accuracy：纵轴 accuracy，横轴训练的参数：lora 0.6（横轴 10）; "
            "基线（floor）多数类：0.4。") in methods
    for words in ("内存", "GB   （虚线：总共 4 GB）", "权重 (2 GB)", "时间", "小时"):
        assert f">{words}<" in plan, words
    assert "小。内存：权重 2 GB，共有 4 GB。时间：训练 2:00:00。" in plan


def test_without_a_font_the_labels_of_a_png_are_english_and_that_is_said_once(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    with caplog.at_level(logging.WARNING, "llmkit"):
        assert [labels.said(words) for words in ("training", "step")] == ["training", "step"]
        assert labels.inked("training") == "training"
        curves.draw(curves.panels(LOSS, 4.5), "b", tmp_path / "loss.png")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == ("pictures have English labels: no font of this machine has Chinese letters; `apt install "
                    "fonts-noto-cjk` brings one, or pip install 'llmkit-train[fonts]'")
    assert translate(line, "zh").startswith("图中的标签为英文：")
    assert "训练：第 1 步 5，".encode() in (tmp_path / "loss.png").read_bytes()  # whoever reads it out needs no font
    assert labels.writing(tmp_path / "a.svg")("training") == "训练"  # drawn by whoever looks at it


def test_english_labels_need_no_font_and_no_word(
        monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("LLMKIT_LANG", "en")
    monkeypatch.setattr(labels, "undrawable", pytest.fail)
    assert labels.said("training") == "training"
    assert caplog.records == []


@pytest.mark.usefixtures("chinese")
def test_a_heat_map_says_in_chinese_which_head_is_whose(tmp_path: Path) -> None:
    import numpy as np

    figure = heat.grid(np.full((1, 2, 3, 3), 0.5), "标题", first=(3, 5))
    with heat.drawing(paper.LIGHT):
        paper.save(figure, tmp_path / "heads.svg")
    shown = (tmp_path / "heads.svg").read_text(encoding="utf-8")
    assert all(f">{words}<" in shown for words in ("第 5 头", "第 6 头", "第 3 层", "标题"))


def test_a_long_title_is_broken_by_columns() -> None:
    assert labels.titled("数据：12，共 320 个 token；长度 3 到 20", 2.0) == "数据：12，共 320 个\ntoken；长度 3 到 20"
    assert labels.titled("one two three four five six seven", 1.0) == "one two three\nfour five six\nseven"
