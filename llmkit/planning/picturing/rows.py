"""Rows of a batch as tokens, each with what became of it: kept, masked, replaced, a target, padding, a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmkit.figures.tokens import TokenKind, TokenMark
from llmkit.objectives.span_corruption import sentinels
from llmkit.system.language import translate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS = {kind.name: kind for kind in (
    TokenKind("kept", "is read as it stands in the text", ("", ""), None, "", ""),
    TokenKind("masked", "is hidden; small letters, or what stands behind an arrow, are to be found", ("", ""), 1,
              "border-bottom:3px dotted;", "black on dark_orange"),
    TokenKind("replaced", "is another token than in the text; the right one stands likewise", ("{", "}"), 3,
              "border-bottom:3px double;", "black on plum2"),
    TokenKind("target", "has to be predicted", ("<", ">"), 0, "border-bottom:3px solid;", "black on sky_blue2"),
    TokenKind("padding", "fills the row up, and nobody sees it", ("", ""), None, "opacity:.55;", "dim"),
    TokenKind("document", "begins with the next token; its number", ("", ""), 2, "font-weight:700;",
              "black on sea_green2"),
)}
"""What a token of a row can be."""
FILLED = 12
"""Padding tokens that are shown one by one; of more, one with their number."""


def seen(
    fields: Mapping[str, Sequence[int]], tokenizer: PreTrainedTokenizerBase, words: bool,
) -> list[dict[str, Any]]:
    """A row as the model sees it: [{"side": reads or writes, "tokens": [{"text", "kind", "label"}]}].

    `words`: whether labels are tokens. A label is told where it isn't what stands there, or comes next.

    the [MASK] sat, labels · cat ·   ->   the (kept), [MASK] (masked, cat), sat (kept)
    """
    from llmkit.planning.inspect import spelled

    def text(ids: Sequence[int]) -> list[str]:
        import numpy as np

        return spelled(np.array(ids), tokenizer)

    ids, labels = fields.get("input_ids"), fields.get("labels")
    if ids is None or (len(ids) and not isinstance(ids[0], int)):  # several texts in a row: choices
        return []
    if "decoder_input_ids" in fields:
        marks = {tokenizer.mask_token_id, *sentinels(tokenizer)}
        read = [_token(word, "masked" if number in marks else "kept")
                for number, word in zip(ids, text(ids), strict=True)]
        written = [_token(word, "target" if number >= 0 else "kept")
                   for number, word in zip(labels or (), text(labels or ()), strict=True)]
        return [_side("reads", read, fields.get("documents")),
                _side("writes", written, fields.get("decoder_documents"))]
    own = text(ids)
    if labels is None or len(labels) != len(ids) or not words:
        return [_side("reads", [_token(word, "kept") for word in own], fields.get("documents"))]
    if follows(ids, labels):
        tokens = [_token(word, "target" if i and labels[i - 1] >= 0 else "kept") for i, word in enumerate(own)]
        if labels[-1] >= 0:
            tokens.append(_token(text(labels[-1:])[0], "target"))
        documents = fields.get("documents")
        return [_side("reads", tokens, None if documents is None else [*documents, *documents[-1:]])]
    return [_side("reads", [_hidden(number, label, word, right, tokenizer.mask_token_id) for number, label, word, right
                            in zip(ids, labels, own, text(labels), strict=True)], fields.get("documents"))]


def follows(ids: Sequence[int], labels: Sequence[int]) -> bool:
    """Whether labels are the tokens that come next, not those that stand there."""
    pairs = [(label, after) for label, after in zip(labels, ids[1:], strict=False) if label >= 0]
    here = [(label, number) for label, number in zip(labels, ids, strict=True) if label >= 0]
    return bool(pairs) and sum(a == b for a, b in pairs) > sum(a == b for a, b in here)


def _hidden(number: int, label: int, word: str, right: str, mask: int | None) -> dict[str, str]:
    if label < 0:
        return _token(word, "kept")
    if number == mask:
        return _token(word, "masked", right)
    return _token(word, "target") if number == label else _token(word, "replaced", right)


def _token(text: str, kind: str, label: str = "") -> dict[str, str]:
    return {"text": text, "kind": kind, **({"label": label} if label else {})}


def _side(name: str, tokens: list[dict[str, str]], documents: Sequence[int] | None) -> dict[str, Any]:
    """With the number of each document before its first token, where there are several."""
    if documents is None or len(set(documents)) < 2:
        return {"side": name, "tokens": tokens}
    out: list[dict[str, str]] = []
    for i, token in enumerate(tokens):
        number = documents[min(i, len(documents) - 1)]
        if i == 0 or (i < len(documents) and number != documents[i - 1]):
            out.append(_token(f"│{number}", "document"))
        out.append(token)
    return {"side": name, "tokens": out}


def batch(drawn: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[TokenMark]]]:
    """(row, its tokens) of each row and side, filled up to the longest of that side: what a step is given."""
    longest: dict[str, int] = {}
    for one in drawn:
        for side in one["seen"]:
            longest[side["side"]] = max(longest.get(side["side"], 0), _size(side))
    out = []
    for one in drawn:
        for side in one["seen"]:
            name = (f"row {one['row']}, pass {one['pass']}" if len(longest) < 2 else
                    f"row {one['row']}, pass {one['pass']}, {side['side']}")
            out.append((name, [*map(_mark, side["tokens"]), *_padding(longest[side["side"]] - _size(side))]))
    return out


def _size(side: Mapping[str, Any]) -> int:
    return sum(token["kind"] != "document" for token in side["tokens"])


def _mark(token: Mapping[str, str]) -> TokenMark:
    kind = KINDS[token["kind"]]
    label = token.get("label", "")
    title = translate(kind.name) + (f": {label}" if label else "")
    return TokenMark(token["text"], kind=kind, below=label, title=f"{token['text']}: {title}")


def _padding(count: int) -> list[TokenMark]:
    if count > FILLED:
        return [TokenMark(f"· ×{count}", kind=KINDS["padding"], title=translate(f"{count} tokens of padding"))]
    return [TokenMark("·", kind=KINDS["padding"], title=translate("padding"))] * count
