"""A page that stands alone: one file of HTML with no script, nothing from a network, and pictures inside it."""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmkit.figures.markup import HTML_NAMES
from llmkit.figures.paper import DARK, LIGHT, SIGN, Theme
from llmkit.figures.tokens import rgb
from llmkit.system.errors import PlaceError
from llmkit.system.language import chosen, translate
from llmkit.system.terminal import visible

STYLE = """
:root{color-scheme:light dark}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,"Noto Sans CJK SC","Microsoft YaHei",sans-serif}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem}
a{color:var(--first)}
.tokens{line-height:2.1;overflow-wrap:anywhere}
.t{border-radius:3px;padding:1px 3px}
.t small{margin-left:.3em;opacity:.85;font-size:.75em}
.quiet{color:color-mix(in srgb,var(--ink) 72%,var(--ground))}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem}
th,td{padding:2px 8px;text-align:left;border-bottom:1px solid color-mix(in srgb,var(--faint) 35%,transparent)}
td.n{text-align:right;font-variant-numeric:tabular-nums}
ul.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1rem}
pre{overflow-x:auto;line-height:1.25}
figure{margin:1rem 0}
figure img{max-width:100%;height:auto}
figure.wide{overflow-x:auto}figure.wide img{max-width:none;width:max(100%,58rem)}
figure img.dark{display:none}
@media(prefers-color-scheme:dark){figure img.dark{display:inline}figure img.light{display:none}}
.note{border-left:4px solid var(--second);padding:.2rem .8rem}
"""


def document(title: str, body: str, *styles: str) -> str:
    """A whole page. `title` is translated; `body` is HTML whose text is escaped; `styles` stand behind the usual rules.

    The content security policy lets in this one style sheet, by its hash, and pictures that are inside the file.
    """
    style = STYLE + "".join(styles) + colours(LIGHT) + f"@media(prefers-color-scheme:dark){{{colours(DARK)}}}"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (f'<!doctype html>\n<html lang="{HTML_NAMES.get(chosen(), chosen())}">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
            f'<meta name="generator" content="{SIGN}">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{sentence(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n")


def colours(theme: Theme) -> str:
    """A theme as variables of CSS."""
    return (f":root{{--ground:{theme.ground};--ink:{theme.ink};--faint:{theme.faint};--first:{theme.lines[0]};"
            f"--second:{theme.lines[1]}}}")


def both(rules: tuple[str, str]) -> str:
    """Rules of (light, dark), each where it is asked for."""
    return f"{rules[0]}@media(prefers-color-scheme:dark){{{rules[1]}}}"


def text(value: object) -> str:
    """Any text for HTML: escaped, and what would steer a terminal or turn the direction of writing is shown."""
    return escape(visible(str(value)))


def sentence(words: str) -> str:
    """A sentence of ours for HTML, in the language that is chosen."""
    return text(translate(words))


def table(head: list[str], rows: list[list[str]], numbers: int = 1) -> str:
    """A table of texts, which are escaped and stay as they are; columns from the `numbers`-th on are figures."""
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = ["".join(f'<td{" class=n" if i >= numbers else ""}>{text(cell)}</td>' for i, cell in enumerate(row))
             for row in rows]
    return (f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>'
            f'{"".join(f"<tr>{line}</tr>" for line in lines)}</tbody></table></div>')


def picture(image: bytes, says: str, names: str = "") -> str:
    """A PNG inside the page, with what it shows in words for those who don't see it."""
    return (f'<img src="data:image/png;base64,{base64.b64encode(image).decode()}" alt="{text(says)}"'
            f'{f" class={names}" if names else ""}>')


def shades(values: NDArray[np.float64], colour: str = LIGHT.lines[0]) -> bytes:
    """Values from 0 to 1, (rows, columns), as a PNG of a pixel each: one colour, the clearer the less there is.

    On a light and on a dark page it is the ground that shows through.
    """
    rows, columns = values.shape
    pixels = np.empty((rows, columns, 4), np.uint8)
    pixels[..., :3] = rgb(colour)
    pixels[..., 3] = np.rint(255 * np.clip(values, 0, 1))
    lines = np.concatenate([np.zeros((rows, 1), np.uint8), pixels.reshape(rows, -1)], axis=1)  # 0: no filter
    return b"\x89PNG\r\n\x1a\n" + b"".join((
        _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 6, 0, 0, 0)),
        _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), _chunk(b"IEND", b"")))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write(html: str, path: Path) -> None:
    """Write a page; PlaceError where the place can't be written."""
    try:
        path.write_text(html, encoding="utf-8")
    except OSError as error:
        raise PlaceError(f"{path}: {error.strerror}.") from error
