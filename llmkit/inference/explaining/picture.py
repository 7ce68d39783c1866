"""An explanation as pictures on paper, and as a page to walk through: every head, without a script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmkit.figures import document, heat, paper
from llmkit.figures.document import sentence, text
from llmkit.figures.labels import said
from llmkit.figures.paper import DARK, LIGHT, Theme
from llmkit.figures.tokens import TokenMark, css, level, spans
from llmkit.inference.explaining.attention import AttentionMaps, strongest
from llmkit.inference.explaining.explanation import KNOWN, Explanation, looks
from llmkit.inference.explaining.lens import Lens
from llmkit.inference.explaining.shown import ShownToken
from llmkit.planning.soft_words import spelled
from llmkit.system.language import translate
from llmkit.system.report import log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 3
"""Links of a token that a page tells of a head."""
SIDES = {"encoder": "encoder, self-attention", "decoder": "decoder, self-attention",
         "cross": "decoder, attention to what the encoder read"}
WALK = """
.heads{display:flex;gap:4px;margin-bottom:4px;overflow-x:auto}
.heads a{display:block;flex:none;width:3.2rem;height:3.2rem}
.heads a{border:1px solid color-mix(in srgb,var(--faint) 45%,transparent)}
.heads a:focus-visible,.heads a:hover{outline:2px solid var(--second)}
.heads img{width:100%;height:100%;image-rendering:pixelated;display:block}
.head{display:none}.head:target{display:block}
.head img{width:min(100%,28rem);aspect-ratio:1;image-rendering:pixelated;border:1px solid var(--faint)}
"""


def marks(tokens: Sequence[ShownToken], values: Sequence[float | None]) -> list[TokenMark]:
    """Tokens in the colour of what they are worth; where nothing is worth much, none has a strong one."""
    most = max((abs(value) for value in values if value is not None), default=0.0)
    most = max(most, heat.LEAST)
    return [TokenMark(token.text, 0 if value is None else level(value, most), gap=token.gap,
                      title="" if value is None else f"{token.text}: {figure(value)}")
            for token, value in zip(tokens, values, strict=True)]


def figure(value: float | None) -> str:
    """A value with its sign; "" where there is none: +0.0123, -3.1e-06"""
    if value is None:
        return ""
    return f"{value:+.1e}" if 0 < abs(value) < 5e-5 else f"{value:+.4f}"


# ---- on paper ----

def draw(explanation: Explanation, path: Path, theme: Theme = LIGHT) -> None:
    """Write a picture of all that was asked for, as PNG or SVG; PlaceError where the place can't be written."""
    pictures = list(figures(explanation, theme))
    letters = paper.undrawable([token.text for token in (*explanation.subject.tokens, *explanation.subject.written)])
    if letters:
        log.warning("%s: no font of this machine has %s; a box stands for each. A page shows them: -o %s", path,
                    letters[:20], path.with_suffix(".html"))
    whole = pictures[0] if len(pictures) == 1 else heat.stacked(pictures, theme)
    with heat.drawing(theme):
        paper.save(whole, path)


def figures(explanation: Explanation, theme: Theme) -> list[Figure]:
    """A picture of each part."""
    subject, out = explanation.subject, []
    name = Path(subject.name).name  # of a folder, the last part
    if explanation.worth and explanation.occlusion is not None:
        out.append(heat.bars([token.text for token in subject.tokens], explanation.worth, explanation.units,
                             f"{name}: {said(explanation.title)}", theme))
    if explanation.lens is not None:
        out.append(_lens(explanation.lens, name, theme))
    for maps in explanation.maps or ():
        out.append(_maps(maps, name, theme))
    if not out and explanation.rollout is not None:
        out.append(heat.bars([token.text for token in subject.tokens], explanation.worth, explanation.units,
                             name, theme))
    return out


def _maps(maps: AttentionMaps, name: str, theme: Theme) -> Figure:
    layers, heads = maps.weights.shape[:2]
    if layers * heads > 1:
        return heat.grid(maps.weights, f"{name}: {said(SIDES[maps.side])}", theme, (maps.layer, maps.head))
    return heat.labelled(
        maps.weights[0, 0], [token.text for token in maps.queries], [token.text for token in maps.keys],
        f"{name}: {said(SIDES[maps.side])}, {said(f'layer {maps.layer}, head {maps.head}')}: "
        + said("each row looks at the columns"), theme)


def _lens(found: Lens, name: str, theme: Theme) -> Figure:
    chances = np.array([[some[0].probability for some in layer.words] for layer in found.layers])
    return heat.words(
        [[some[0].text for some in layer.words] for layer in reversed(found.layers)], chances[::-1],
        [said(layer_name(layer.layer)) for layer in reversed(found.layers)], [token.text for token in found.positions],
        f"{name}: " + said(f"the likeliest word of each layer, {says(found)}"), theme)


def layer_name(number: int) -> str:
    """0 is below all layers."""
    return f"layer {number}" if number else "embeddings"


def says(found: Lens) -> str:
    """Which word a position says."""
    return "the one that comes next" if found.next else "the one that stands there"


# ---- as a page ----

def page(explanation: Explanation) -> str:
    """One file of HTML: every part, and each head of every layer behind a link."""
    subject = explanation.subject
    parts = [f"<h1>{text(subject.name)}</h1>", f"<p>{sentence(explanation.title)}</p>", _answers(explanation)]
    parts += [f'<p class="note">{sentence(note)}</p>' for note in explanation.notes]
    parts += [_worth(explanation), _layers(explanation.lens), _prompt(explanation)]
    parts += [_walk(maps) for maps in explanation.maps or ()]
    limits = sentence("What such pictures can't show")
    parts += [f"<h2>{limits}</h2>", *(f"<p>{sentence(line)}</p>" for line in KNOWN)]
    return document.document(f"{subject.name}: {translate(explanation.title)}", "\n".join(filter(None, parts)), WALK,
                             document.both((css(LIGHT), css(DARK))))


def _answers(explanation: Explanation) -> str:
    if not explanation.likeliest:
        return ""
    return document.table(translated("likeliest answers", "probability"),
                          [[name, f"{value:.4f}"] for name, value in explanation.likeliest])


def _worth(explanation: Explanation) -> str:
    """The text once for each way of weighing its tokens, and all figures in a table."""
    worth, subject = explanation.worth, explanation.subject
    if not worth:
        return ""
    out = [f"<h2>{sentence('What it rests on')}</h2>"]
    for name, values in worth.items():
        out += [f"<h3>{sentence(name)}</h3>", f'<p class="quiet">{sentence(explanation.units[name])}</p>',
                f'<p class="tokens">{spans(marks(subject.tokens, values))}</p>']
    out.append(document.table(translated("token", *worth), [
        [token.text, *(figure(row[i]) for row in worth.values())]
        for i, token in enumerate(subject.tokens)]))
    if beside := explanation.beside:
        out += [f"<h3>{sentence('The other choices')}</h3>", document.table(translated("choice", "token", *beside), [
            [choice, token.text, *(figure(row[i]) for row in beside.values())]
            for i, (choice, token) in enumerate(subject.beside)])]
    return "\n".join(out)


def _layers(found: Lens | None) -> str:
    if found is None:
        return ""
    rows = [[translate(layer_name(layer.layer)), *(f"{some[0].text} {some[0].probability:.2f}" for some in layer.words)]
            for layer in reversed(found.layers)]
    aims = [[translate(layer_name(layer.layer)), f"{layer.aim:.4f}", f"{layer.rank:,}"]
            for layer in reversed(found.layers) if layer.aim is not None]
    beside = document.table(translated("what is explained", "probability", "rank"), aims) if aims else ""
    about = sentence(f"The likeliest word at each position, {says(found)}.")
    return (f"<h2>{sentence('What each layer would say')}</h2><p>{about}</p>"
            f"{beside}{document.table(['', *(token.text for token in found.positions)], rows, 99999)}")


def _prompt(explanation: Explanation) -> str:
    if explanation.prompt is None:
        return ""
    rows = [[str(one["position"]), translate(one["side"]),
             *(f"{spelled(word)} ({word['cosine']:.2f})" for word in one["nearest"])]
            for one in explanation.prompt["virtual_tokens"]]
    wide = max(len(row) for row in rows)
    return (f"<h2>{sentence('The soft prompt')}</h2><p>{sentence(explanation.prompt['note'])}</p>"
            + document.table([*translated("", "side", "nearest words (cosine)"), *[""] * (wide - 3)], rows, 99999))


def _walk(maps: AttentionMaps) -> str:
    """A small picture of each head, which leads to the large one with what it looks at in words."""
    layers, heads = maps.weights.shape[:2]
    small, large, side = [], [], sentence(SIDES[maps.side])
    for i in range(layers):
        for j in range(heads):
            at = f"{maps.side}-{maps.layer + i}-{maps.head + j}"
            name = sentence(f"layer {maps.layer + i}, head {maps.head + j}")
            image = document.shades(maps.weights[i, j] / max(1e-12, float(maps.weights[i, j].max())))
            shown = document.picture(image, f"{name}: {looks(maps, i, j)}")
            small.append(f'<a href="#{at}" title="{name}">{shown}</a>')
            how = f"Rows look at columns, in the order of the text; the strongest is {maps.weights[i, j].max():.2f}."
            large.append(f'<section class="head" id="{at}"><h3>{side}: {name}</h3>{shown}'
                         f'<p class="quiet">{sentence(how)}</p>{_links(maps, i, j)}</section>')
    rows = "".join(f'<div class="heads">{"".join(small[i * heads:(i + 1) * heads])}</div>' for i in range(layers))
    how = sentence("A row a layer, the lowest first; a square a head. Each leads to its picture and its links in "
                   "words.")
    return f"<h2>{sentence('Attention')}: {side}</h2><p>{how}</p>{rows}{''.join(large)}"


def translated(*names: str) -> list[str]:
    """The heads of columns in the language that is chosen."""
    return [translate(name) for name in names]


def _links(maps: AttentionMaps, layer: int, head: int) -> str:
    found = strongest(maps.weights[layer, head], ROWS)
    rows = [[maps.queries[i].text, *(f"{maps.keys[key].text} {value:.2f}" for key, value in links)]
            for i, links in enumerate(found)]
    return document.table([*translated("token", "looks at"), *[""] * (min(ROWS, len(maps.keys)) - 1)], rows, 99999)
