"""HTML that can't be broken into: whatever isn't made here is text, and is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from llmkit.figures import paper
from llmkit.system.terminal import visible_lines

GENERATOR = '<meta name="generator" content="llmkit report">'
"""By which a page is known as one that llmkit wrote."""
CSS = """
body{margin:0 auto;padding:1rem;max-width:62rem;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,"Noto Sans CJK SC","Microsoft YaHei","PingFang SC",sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.5rem 0}h2{font-size:1.25rem;margin:2rem 0 .5rem;border-bottom:1px solid var(--faint)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}p{margin:.4rem 0}figure{margin:.6rem 0}figcaption{font-size:.85rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}caption{text-align:left;font-size:.85rem;
width:max-content;max-width:min(36rem,90vw)}
th,td{padding:.2rem .6rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--line);
overflow-wrap:normal;word-break:keep-all}td.text{overflow-wrap:anywhere;word-break:normal;min-width:12rem;white-space:pre-wrap}
td.some{min-width:7rem}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}tr.changed td{font-weight:600}.quiet{opacity:.75}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:.5rem 1.5rem}
.warn{border-left:4px solid var(--c1);padding-left:.6rem}details{margin:.6rem 0}summary{cursor:pointer}
svg{width:100%;height:auto}svg text{fill:var(--ink);font-size:12px}svg .axis{stroke:var(--faint);stroke-width:1}
svg .net{stroke:var(--line);stroke-width:1}svg .curve{fill:none;stroke-width:2}
svg .floor{stroke:var(--faint);stroke-width:1.5;stroke-dasharray:6 4}
mark{background:none;color:inherit;border-bottom:3px solid var(--faint)}mark.right{border-color:var(--c2)}
mark.wrong{border-color:var(--c1);border-bottom-style:double}mark.doubted{border-color:var(--c3);border-bottom-style:dotted}
@media(max-width:30rem){svg text{font-size:15px}}
"""


HTML_NAMES = MappingProxyType({"zh": "zh-Hans"})
"""What HTML calls a language whose letters have several forms."""


class Html(str):
    """Text of a page that may stand in it as it is."""


def text(value: object) -> Html:
    r"""What anybody wrote, to be read: tags are none, and what steers a terminal is shown.

    >>> text("<b> & \x1b")
    '&lt;b&gt; &amp; \\x1b'
    """
    return value if isinstance(value, Html) else Html(html.escape(visible_lines(str(value))))


def join(parts: Iterable[object], between: str = "") -> Html:
    """Parts one after the other, each escaped where it isn't made here."""
    return Html(between.join(map(text, parts)))


def tag(name: str, *inside: object, **attributes: object) -> Html:
    """An element; `class_` is its class, and an underscore in a name is a dash.

    >>> tag("p", "a < b", class_="warn")
    '<p class="warn">a &lt; b</p>'
    """
    named = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{named}>{join(inside)}</{name}>")


def table(head: Sequence[object], rows: Iterable[Sequence[object]], caption: object = "") -> Html:
    """A table that scrolls by itself where a phone is narrower; figures stand to the right, long texts may break."""
    body = join(tag("tr", *(cell(value) for value in row)) for row in rows)
    top = tag("thead", tag("tr", *(tag("th", value, scope="col") for value in head))) if head else Html("")
    about = tag("caption", caption) if caption else Html("")
    return tag("div", tag("table", about, top, tag("tbody", body)), class_="wide")


def cell(value: object) -> Html:
    """A table's cell: numbers as a reader wants them, true and false as words."""
    if isinstance(value, bool) or value is None:
        return tag("td", "" if value is None else str(value).lower())
    if isinstance(value, int | float):
        return tag("td", number(value), class_="n")
    if not isinstance(value, str) or isinstance(value, Html) or len(value) <= 10:
        return tag("td", value)
    return tag("td", value, class_="text" if len(value) > 40 else "some")


def number(value: float) -> str:
    """A figure: 1,234 or 0.8123 or 1.2e-05."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.4g}"


def variables(theme: paper.Theme) -> str:
    """A theme's colours as CSS variables."""
    colours = asdict(theme)
    plain = "".join(f"--{name}:{colours[name]};" for name in ("ground", "ink", "faint"))
    return (plain + f"--line:color-mix(in srgb,{theme.faint} 35%,{theme.ground});"
            + "".join(f"--c{number}:{colour};" for number, colour in enumerate(theme.lines)))


def sheet_of_style() -> str:
    """The page's CSS: light or dark as the reader's system is, colours of curves and shades of tables by class."""
    curves = "".join(f"svg .curve.c{i},svg .dot.c{i}{{stroke:var(--c{i})}}svg .dot.c{i},.key.c{i}{{fill:var(--c{i});"
                     f"color:var(--c{i})}}" for i in range(len(paper.LIGHT.lines)))
    shades = "".join(f"td.h{i}{{background:color-mix(in srgb,var(--c0) {6 * i}%,var(--ground))}}" for i in range(11))
    return (f":root{{color-scheme:light dark;{variables(paper.LIGHT)}}}"
            f"@media(prefers-color-scheme:dark){{:root{{{variables(paper.DARK)}}}}}{CSS}{curves}{shades}")


def page(title: str, *inside: object, language: str = "en") -> str:
    """A whole page, in one file: it asks no network for anything, and no script runs in it, whoever wrote one there."""
    style = sheet_of_style()
    known = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{known}'; img-src data:; base-uri 'none'; form-action 'none'"
    return (f'<!DOCTYPE html>\n<html lang="{HTML_NAMES.get(language, language)}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n{GENERATOR}\n'
            f"{tag('title', title)}\n<style>{style}</style>\n</head>\n<body>\n"
            f"{tag('main', *inside)}\n</body>\n</html>\n")


def marked(parts: Iterable[Sequence[str]]) -> Html:
    """Text of which some parts are marked, each with what there is to say of it: [["the ", ""], ["cat", "wrong", …]].

    What is said stands beside the part in brackets: not by colour alone.
    """
    out = []
    for part in parts:
        word, mark, note = (*map(str, part), "", "")[:3]
        out.append(join([tag("mark", word, class_=mark), f" [{note}]" if note else ""]) if mark else text(word))
    return join(out)


def changed(rows: Iterable[tuple[Sequence[object], bool]], head: Sequence[object]) -> Html:
    """A table some of whose rows stand out, in bold and with a star: (cells, whether)."""
    body = join(tag("tr", *(cell(value) for value in ("★" if out else "", *cells)),
                    **({"class_": "changed"} if out else {})) for cells, out in rows)
    top = tag("thead", tag("tr", *(tag("th", value, scope="col") for value in ("", *head))))
    return tag("div", tag("table", top, tag("tbody", body)), class_="wide")


def shades(labels: Sequence[str], counts: Sequence[Sequence[int]], caption: str) -> Html:
    """A table of counts whose cells are the darker the larger their share of their row is."""
    rows = []
    for label, row in zip(labels, counts, strict=True):
        whole = max(1, sum(row))
        cells = [tag("td", number(count), class_=f"n h{round(10 * count / whole)}") for count in row]
        rows.append(tag("tr", tag("th", label, scope="row"), *cells))
    head = tag("thead", tag("tr", tag("td"), *(tag("th", label, scope="col", class_="n") for label in labels)))
    return tag("div", tag("table", tag("caption", caption), head, tag("tbody", *rows)), class_="wide")


def facts(found: Mapping[str, object]) -> Html:
    """A table of names and values."""
    return table((), [(name, value) for name, value in found.items() if value not in (None, "")])
