"""Coloured tokens, and pages that stand alone."""

from io import BytesIO

import numpy as np
from matplotlib.image import imread

from llmkit.figures import document, heat, paper, tokens
from llmkit.figures.tokens import TokenKind, TokenMark

KIND = TokenKind("masked", "is hidden", ("[", "]"), 1, "border:1px;", "bold")


def test_a_value_becomes_a_shade() -> None:
    assert [tokens.level(value, 2.0) for value in (2.0, -1.0, 0.05, 0.03, 0.0)] == [10, -5, 1, 0, 0]
    assert tokens.level(1.0, 0.0) == 0
    assert [tokens.signs(of) for of in (10, -5, 1, 0)] == ["+++", "--", "+", ""]


def test_colours_are_mixed() -> None:
    assert tokens.mixed("#ff0000", "#0000ff", 0.25) == "#4000bf"
    assert tokens.shade(paper.LIGHT, 10) == tokens.mixed(paper.LIGHT.lines[0], paper.LIGHT.ground, 0.66)


def test_text_of_a_token_is_escaped_and_steers_nothing() -> None:
    html = tokens.spans([TokenMark("<script>\x1b[2J", 3, title='a"<b>', below="<i>"), TokenMark("x", kind=KIND)])
    assert html == (' <span class="t p3" title="a&quot;&lt;b&gt;">&lt;script&gt;\\x1b[2J<small>&lt;i&gt;</small></span>'
                    ' <span class="t k-masked">x</span>')
    assert "\x1b" not in str(tokens.coloured([TokenMark("\x1b[2J", 3)]))


def test_without_colours_there_are_signs() -> None:
    line = tokens.signed([TokenMark("a", gap=False), TokenMark("dull", -9), TokenMark("ly", 1, gap=False),
                          TokenMark("[MASK]", kind=KIND, below="film")])
    assert str(line) == "a dull[---]ly[+] [[MASK]→film]"


def test_shades_are_a_picture_of_a_pixel_each() -> None:
    image = imread(BytesIO(document.shades(np.array([[0.0, 0.5, 1.0]]), "#0072b2")))
    assert image.shape == (1, 3, 4)
    assert np.allclose(image[0, :, 3], [0, 0.5, 1], atol=0.01)
    assert np.allclose(image[0, 2, :3], [0, 0x72 / 255, 0xB2 / 255], atol=0.01)


def test_a_title_and_a_cell_of_a_page_are_text() -> None:
    html = document.document("<b>", document.table(["<i>"], [["<u>", "1"]]))
    assert "<title>&lt;b&gt;</title>" in html and "<th scope=\"col\">&lt;i&gt;</th>" in html
    assert "<td>&lt;u&gt;</td><td class=n>1</td>" in html


def test_pictures_below_each_other_keep_their_size() -> None:
    parts = [heat.labelled(np.eye(2), ["a", "$b_1$"], ["c", "d"], "one"), heat.grid(np.ones((1, 2, 2, 2)), "two")]
    whole = heat.stacked(parts)
    sizes = [part.get_size_inches() for part in parts]
    assert np.allclose(whole.get_size_inches(), [max(size[0] for size in sizes), sum(size[1] for size in sizes)],
                       atol=0.02)
