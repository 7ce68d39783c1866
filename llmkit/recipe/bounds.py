"""What the numbers of a stranger's config.json may be: those that take memory or time, before anything is built."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmkit.recipe.fields import MOST_LAYERS
from llmkit.system.errors import RequestError


class Bound(NamedTuple):
    """The most that a number of some names may be."""

    names: str
    """Whole names, as a regular expression."""
    most: int
    what: str
    """What is counted."""


TOKENS = r"(eos|bos|pad|decoder_start|forced_bos|forced_eos)_token_id|bad_words_ids|(begin_)?suppress_tokens"
"""Fields of a generation_config.json that are tokens, or lists of them."""
OF_VOCABULARY = ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens")
"""Those whose scores are changed at every step: all must be there."""
POSITIVE = ("repetition_penalty", "encoder_repetition_penalty")
"""Those that scores are divided by."""
MOST_TOKENS = 2**31
MOST_LABELS = 100_000
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
"""What a classifier's answers may be."""
ELSEWHERE = ("backbone",)
"""Fields by which transformers would look for another model's config, and ask whether to run the code beside it."""
MOST_BYTES = 2**24
"""Of a config.json; one with 100,000 labels in words has a few million."""
MOST_EXPERTS = 2**20
"""Experts of a layer times layers: each may be a module of its own."""
LONGEST_LIST = 2**16

LABELS = Bound(r"num_(labels|classes|aggregation_labels|speakers)", MOST_LABELS, "labels")
LAYERS = Bound(
    r"(?!hidden_size_per)\w*layers?|n(um)?_layers?_\w+|depth|num_(mem_|res_)?blocks|\w+_cycles|num_hash(es)?|ngram"
    r"|num_hidden_groups|inner_group_num|num_feedforward_networks|num_self_attends_per_block|pretraining_tp"
    r"|num_quantizers|num_codebooks", MOST_LAYERS, "layers")
EXPERTS = Bound(r"\w*experts?(_num)?|\w*experts_per_tok(en)?", 2**14, "experts")
ANY = Bound(r".*", 2**31, "numbers")
"""Of whole numbers only: a fraction of an unknown name is no size, and may be without end."""
BOUNDS: tuple[Bound, ...] = (
    LABELS,
    Bound(r"\w*(_id|_index|_idx|_offset|_floor|seed|_rate|_base)", 2**31, "numbers"),
    Bound(r"\w*theta\w*", 10**15, "of a rotary base"),
    LAYERS,
    EXPERTS,
    Bound(r"\w*(head|heads|head_dim)", 2**14, "heads, or their width"),
    Bound(r"\w*(buckets|groups?|kernel\w*|filters|centroids|conv\w*)", 2**16, "parts"),
    Bound(r"attention_windows?|block_size|\w*attn_chunk_length|axial_pos_shape|num_global_tokens|num_latents",
          2**16, "positions that a text is filled up to"),
    Bound(r"\w*vocab\w*|\w*voc_size", 2**25, "tokens"),
    Bound(r"\w*(position\w*|pos_emb\w*|ctx|max_length|distance|seq_len\w*|context_length|mem_len|window\w*|chunk\w*"
          r"|extent)", 2**24, "positions"),
    Bound(r"\w*(sizes?(_per_\w+)?|dims?|widths?|embd|ranks?|inner|ff\w*|channels?|latents|states?|features?|length|expand"
          r"|hidden)|d_\w+|dim_\w+", 2**20, "numbers wide"),
    Bound(r"\w*factor", 2**20, "times"),
    ANY,
)
"""No model that people have comes near these; what is asked for below them is compared with the weights. Of several
that have a number's name, the first is its own."""


def check_config(path: Path) -> None:
    """RequestError where a config.json asks for more of something than any model has; nothing where there is no file.

    {"num_labels": 1000000000}  ->  … num_labels is 1000000000; the most is 100,000 (labels).
    """
    if not path.is_file():
        return
    if (size := path.stat().st_size) > MOST_BYTES:
        raise RequestError(f"{path} can't be used: it has {size:,} bytes; a config has at most {MOST_BYTES:,}.")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # who reads it next says what is wrong
    for name, value, bound in excesses(said):
        raise RequestError(f"{path} can't be used: {name} is {value}; the most is {bound.most:,} ({bound.what}).")
    for name, value, what in misfits(said):
        raise RequestError(f"{path} can't be used: {name} is {_short(value)}; {what}.")


def misfits(said: Any) -> Iterator[tuple[str, Any, str]]:
    """Fields of a config that aren't of the kind that they have in every model: (name, value, what they have to be).

    {"id2label": {"0": null}}  ->  ("id2label.0", None, "a label is a text")
    """
    if not isinstance(said, Mapping):
        return
    classes = said.get("architectures") or []
    if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
        yield "architectures", classes, "it is a list of names"
    labels = said.get("id2label") or {}
    if not isinstance(labels, Mapping):
        yield "id2label", labels, "it is an object with a label for each number"
        return
    for number, label in labels.items():
        if not isinstance(label, str | int | float):
            yield f"id2label.{_short(number)}", label, "a label is a text"
            return
    numbers = {str(number) for number in labels}
    if stray := sorted(numbers - {str(number) for number in range(len(labels))}):
        yield f"id2label.{_short(stray[0])}", labels[next(one for one in labels if str(one) == stray[0])], (
            f"the numbers of {len(labels)} labels are 0 to {len(labels) - 1}")
    if (problem := said.get("problem_type")) not in (None, *PROBLEMS):
        yield "problem_type", problem, f"it is one of {', '.join(PROBLEMS)}"
    for name in ELSEWHERE:
        if isinstance(value := said.get(name), str):
            yield name, value, "a model that is made of another one's files isn't opened"


def check_generation(path: Path, config: Path) -> None:
    """RequestError where a generation_config.json has a penalty that is none, or tokens that no model can have.

    {"bad_words_ids": [[1000000000]]} beside a config of 353 words  ->  … names the token 1000000000; there are 353.
    """
    said, beside = (_object(one) for one in (path, config))
    for name in POSITIVE:
        if (value := said.get(name)) is not None and not (isinstance(value, int | float) and 0 < value < float("inf")):
            raise RequestError(f"{path} can't be used: {name} is {_short(value)}; it is a number above 0.")
    known = beside.get("vocab_size")
    words = known if isinstance(known, int) else MOST_TOKENS
    for name, value in said.items():
        if not re.fullmatch(TOKENS, name):
            continue
        most = words if name in OF_VOCABULARY else MOST_TOKENS  # ends may lie beyond, and are never written then
        wrong = next((one for one in _leaves(value) if not isinstance(one, int) or not -1 <= one < most), None)
        if wrong is not None:
            raise RequestError(f"{path} can't be used: {name} names the token {str(wrong)[:40]}; there are {most:,}.")


def _object(path: Path) -> dict[str, Any]:
    """What stands in a small JSON file; nothing where there is none, or where who reads it next says what is wrong."""
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.stat().st_size <= MOST_BYTES else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _leaves(value: Any) -> Iterator[Any]:
    """What stands in lists in lists, without the nulls."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, list):
            left += one
        elif one is not None:
            yield one


def bound_of(name: str) -> Bound:
    """The bound of a number, by its name."""
    return next((bound for bound in BOUNDS if re.fullmatch(bound.names, name)), ANY)


def excesses(said: Any) -> Iterator[tuple[str, str, Bound]]:
    """Each number that is too large, of a config and of the configs in it: (its name, what it is, the most)."""
    left: list[tuple[str, Any]] = [("", said)]  # no recursion: a stranger nests as deep as JSON goes
    while left:
        above, inner = left.pop()
        if not isinstance(inner, Mapping):
            continue
        yield from _of_all_layers(above, inner)
        for name, value in inner.items():
            if name in ("id2label", "label2id"):
                yield from _labels(above + name, value)
            elif isinstance(value, Mapping):
                left.append((f"{above}{name}.", value))
            else:
                yield from _too_large(above + name, value, bound_of(name))
            if isinstance(value, list):
                left += [(f"{above}{name}.", one) for one in value[:LONGEST_LIST] if isinstance(one, Mapping)]


def _too_large(name: str, value: Any, bound: Bound) -> Iterator[tuple[str, str, Bound]]:
    """A number, or the numbers of a list, of one in it, and how long such a list is."""
    lists = [one for one in (value, *(value if isinstance(value, list) else ())) if isinstance(one, list)]
    for one in lists:
        if len(one) > LONGEST_LIST:
            yield name, f"a list of {len(one):,}", Bound("", LONGEST_LIST, "entries")
            return
    for number in (one for some in lists or [[value]] for one in some):
        sized = type(number) is int or (type(number) is float and bound != ANY)  # true is no number
        if sized and not number <= bound.most:  # NaN isn't either
            yield name, _short(number), bound


def _labels(name: str, value: Any) -> Iterator[tuple[str, str, Bound]]:
    """Names by number, or numbers by name: how many there are, and how far the numbers go."""
    if not isinstance(value, Mapping):
        return
    if len(value) > MOST_LABELS:
        yield name, f"a list of {len(value):,}", LABELS
    for one in value.values() if name.endswith("label2id") else value:
        if re.fullmatch(r"\d{7,}", str(one)) or (str(one).isdecimal() and int(one) >= MOST_LABELS):
            yield name, f"with a number {_short(one)}", LABELS
            return


def _of_all_layers(above: str, said: Mapping[str, Any]) -> Iterator[tuple[str, str, Bound]]:
    """Experts of a layer times layers."""
    layers, experts = ([(value, name) for name, value in said.items() if type(value) is int
                        and re.fullmatch(bound.names, name) and "per_tok" not in name] for bound in (LAYERS, EXPERTS))
    if layers and experts and (product := max(layers)[0] * max(experts)[0]) > MOST_EXPERTS:
        yield (f"{above}{max(experts)[1]}", f"{_short(product)} in all of its layers",
               Bound("", MOST_EXPERTS, "experts in all"))


def _short(number: Any) -> str:
    said = str(number)
    return said if len(said) <= 30 else f"{said[:30]}…"
