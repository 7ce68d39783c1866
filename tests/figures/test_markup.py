"""HTML that can't be broken into, and charts in it."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from llmkit.figures import chart, markup, paper
from llmkit.figures.curves import Curve, Panel

EVIL = "<script>alert('x')</script>"


class Seen(HTMLParser):
    """The tags of a page, their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("part", [
    markup.tag("p", EVIL), markup.tag("p", class_=f'"{EVIL}'), markup.table((EVIL,), [(EVIL, 1)], EVIL),
    markup.marked([[EVIL, "wrong", EVIL], [EVIL, ""]]), markup.shades([EVIL], [[1]], EVIL), markup.facts({EVIL: EVIL}),
    markup.changed([((EVIL, EVIL), True)], (EVIL,)),
    chart.figure(Panel(EVIL, (Curve(EVIL, (0, 1), (1.0, 2.0)),), {EVIL: 1.5}))])
def test_whatever_is_written_is_text(part: str) -> None:
    seen = Seen(markup.page(EVIL, part))
    assert "script" not in seen.tags
    assert not any(name.startswith("on") for name in seen.attributes)
    assert EVIL in seen.text


def test_a_page_asks_nobody_for_anything_and_its_style_is_the_one_that_it_names() -> None:
    page = markup.page("x", markup.tag("p", "y"))
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    known = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{known}'" in page.replace("&#x27;", "'")
    seen = Seen(page)
    assert not {"src", "href", "style", "action"} & seen.attributes.keys()
    assert "url(" not in style[1] and "@import" not in style[1]
    assert "prefers-color-scheme:dark" in style[1]
    assert paper.DARK.ground in style[1]
    assert "width=device-width, initial-scale=1" in page


def test_control_characters_are_shown() -> None:
    assert markup.text("a\x1b[2Jb") == "a\\x1b[2Jb"


def test_a_chart_is_well_formed_and_says_what_it_shows() -> None:
    panel = Panel("loss", (Curve("training", (0, 10), (4.0, 2.0)),), {"floor": 3.0})
    svg = ElementTree.fromstring(chart.chart(panel))
    space = "{http://www.w3.org/2000/svg}"
    assert svg.get("role") == "img"
    assert svg.findtext(f"{space}desc") == panel.in_words() == svg.get("aria-label")
    (curve,) = svg.iter(f"{space}polyline")
    # both axes reach from the smallest tick to the largest one
    assert curve.get("points") == "62.0,12.0 548.0,260.0"
    (line,) = (one for one in svg.iter(f"{space}line") if one.get("class") == "floor")
    assert float(str(line.get("y1"))) == (chart.TOP + chart.HEIGHT - chart.BOTTOM) / 2


@pytest.mark.parametrize(("low", "high", "ticks"), [
    (0.3, 9.2, [0, 2, 4, 6, 8, 10]), (3.0, 3.0, [1.0, 2.0, 3.0, 4.0, 5.0]), (0, 1000, [0, 200, 400, 600, 800, 1000]),
    (-1e-4, 1e-4, [-1e-4, -5e-5, 0.0, 5e-5, 1e-4])])
def test_ticks_are_round(low: float, high: float, ticks: list[float]) -> None:
    assert chart.even(low, high) == pytest.approx(ticks)


def test_between_two_steps_there_is_no_tick() -> None:
    assert chart.Scale([0, 2], 0, 100, whole=True).ticks == [0, 1, 2]
    assert chart.Scale([0, 2], 0, 100).ticks == [0, 0.5, 1, 1.5, 2]


def test_a_wide_curve_has_powers_of_ten() -> None:
    scale = chart.Scale([2.0, 500.0], 0, 100, log=True)
    assert scale.ticks == [1.0, 10.0, 100.0, 1000.0]
    assert scale(1.0) == 0
    assert scale(10.0) == pytest.approx(100 / 3)


@pytest.mark.parametrize(("value", "words"), [(20_000, "20k"), (1.5e6, "1.5M"), (0.0005, "0.0005"), (0, "0")])
def test_figures_at_an_axis_are_short(value: float, words: str) -> None:
    assert chart.short(value) == words
