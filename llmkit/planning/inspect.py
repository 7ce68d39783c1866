"""Look at what a recipe's model would see: rows as they are, and as the objective or task draws them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.batches import Drawn, Features
from llmkit.data.sources import Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Sets, Setup
from llmkit.planning.picturing.lengths import of_documents, of_rows
from llmkit.planning.picturing.masks import masks
from llmkit.planning.picturing.rows import seen
from llmkit.planning.settle import Settled, settle, with_prompt
from llmkit.planning.vocabulary import speak
from llmkit.recipe import Recipe, registry
from llmkit.recipe.seams import Learning
from llmkit.system.errors import RequestError
from llmkit.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = ("input_ids", "labels", "decoder_input_ids", "negatives")
"""Fields of a row that hold token ids."""
NOTHING = "·"
"""Stands where a label asks for nothing."""


def inspect(
    request: Recipe, rows: Sequence[int] = (0,), times: int = 1, experts: bool = False, also: Collection[str] = (),
) -> dict[str, Any]:
    """Draw rows of a recipe's training data as a run would, without a model.

    `times` draws each row in so many passes: what chance does differs, the row doesn't. Returns {"recipe", "learning",
    "packing", "max_length", "optimizer", "teacher", "learning_rate", "rows", "notes", "tokenizer", "drawn": [{"row",
    "pass", "fields": {name: [values]}, "shown": {name: words}, "seen": as `picturing.rows.seen` gives it}], "sources":
    [{"source", "used": {field: column}, "unused": [column]}]}; with data.augment also "swapped", as `example_of` gives
    it; with `experts` also "experts", as `routed` gives it, for which the model is made. `also` may name "lengths", of
    all that is learned from, as `picturing.lengths.told` gives them, and "mask": then each row drawn has "masks", as
    `picturing.masks.masks` gives them.
    RequestError for a row that isn't there, and for experts that the model hasn't.
    """
    settled = settle(request)
    recipe, tokenizer = settled.recipe, speak(settled)
    setup = Setup(tokenizer, settled.family, recipe.data.max_length or 0, recipe.data.packing, recipe.seed,
                  shots=recipe.data.shots, plain=recipe.data.control_tokens == "split")
    setup = with_prompt(setup, recipe.prompting, recipe.learning)
    sets = recipe.learning.prepare(settled.train, settled.validation, setup)
    drawn = Drawn(sets.train, recipe.seed)
    out = []
    for row in rows:
        if not 0 <= row < len(drawn):
            raise RequestError(f"--row {row}: there are {len(drawn):,} rows, numbered from 0.")
        for nth in range(times):
            features = drawn[nth, row]
            fields = {name: values.tolist() for name, values in features.items()}
            words = recipe.task is None or recipe.task.writes
            out.append({"row": row, "pass": nth, "fields": fields, "seen": seen(fields, tokenizer, words),
                        "shown": show(features, tokenizer, recipe.task is None)})
            if "mask" in also and "input_ids" in fields:
                out[-1]["masks"] = masks(fields, settled.family.shape)
                out[-1]["words"] = {name: spelled(features[name], tokenizer)
                                    for name in ("input_ids", "decoder_input_ids") if name in fields}
    return {"recipe": recipe.name, "learning": registry.name_of(recipe.learning), "packing": recipe.data.packing,
            "max_length": recipe.data.max_length, "optimizer": registry.name_of(recipe.rule),
            "teacher": None if recipe.teacher is None else recipe.teacher.model,
            "learning_rate": recipe.training.learning_rate, "rows": len(drawn), "tokenizer": len(tokenizer),
            "notes": [*(note for reader in settled.readers for note in reader.notes), *sets.notes], "drawn": out,
            "sources": [{"source": reader.name, "used": dict(reader.used), "unused": list(reader.unused)}
                        for reader in settled.readers if reader.used],
            **({} if (swapped := example_of(settled)) is None else {"swapped": swapped}),
            **({} if "lengths" not in also else {"lengths": of_documents(settled.train, setup) if recipe.task is None
                                                 else of_rows(sets, setup)}),
            **({"experts": routed(settled, setup, sets)} if experts else {})}


def example_of(settled: Settled) -> dict[str, str] | None:
    """The first training text whose words are swapped, before and after; empty where none is, None where none should.

    Returns {"source", "before", "after"}.
    """
    for reader in settled.train:
        if reader.swaps is None:
            return None
        for before, after in both_ways(settled.recipe.learning, reader, reader.swaps):
            if after != before:
                return {"source": reader.name, "before": before, "after": after}
    return {}


def both_ways(learning: Learning, reader: Reader, swaps: Swaps) -> Iterator[tuple[str, str]]:
    """Each text of a source before and after its words are swapped, as what is learned swaps them."""
    if not isinstance(learning, Task):
        yield from ((text, swaps(text)) for text in learning.texts(reader))
        return
    for row, _ in learning.read(reader):
        other = learning.swapped(row, swaps)
        if other is not None:
            yield from zip(passages(row), passages(other), strict=True)


def passages(value: Any) -> Iterator[str]:
    """The texts in a row; a list of words is one: {"tokens": ["he", "ran"], "n": 1}  ->  he ran"""
    if isinstance(value, list) and value and all(isinstance(word, str) for word in value):
        yield " ".join(value)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from passages(inner)


def routed(settled: Settled, setup: Setup, sets: Sets) -> dict[str, Any]:
    """Which experts the tokens of the first rows go to, in the model as it is before the run.

    Returns {"rows", "tokens", "experts", "chosen": how many a token goes through, "router_loss", "expert_share_max",
    "expert_share_min", "expert_entropy", "layers": [{"router": its name, "shares": [of each expert]}]}. There are as
    many rows as a step has. RequestError where the model has no experts.
    """
    import torch

    from llmkit.backbones.shared.routers import FIGURES, Routers
    from llmkit.planning.network import network

    torch.manual_seed(settled.recipe.seed)
    model: Any = network(settled, setup.tokenizer, dict(sets.facts)).model
    model.eval()
    routers = Routers.of(model)
    if routers is None:
        raise RequestError(f"--experts: a {settled.family.model_type} has none; backbone.family: qwen3_moe has.")
    drawn = Drawn(sets.train, settled.recipe.seed)
    count = min(len(drawn), settled.recipe.training.global_batch_size)
    batch = settled.recipe.learning.collate([drawn[0, row] for row in range(count)], setup.tokenizer)
    seen: Any = {name: batch[name] for name in ("input_ids", "attention_mask", "documents", "prefix") if name in batch}
    with torch.no_grad(), routers.hear(batch) as heard:
        settled.family.outputs(model.base_model, seen)
    load = routers.load(heard)
    assert load is not None  # all layers were called
    return {"rows": count, "tokens": int(load.tokens.max()), "experts": routers.experts, "chosen": routers.k,
            **dict(zip(FIGURES, load.figures().tolist(), strict=True)),
            "layers": [{"router": router.name, "shares": shares}
                       for router, shares in zip(routers.routers, load.shares().tolist(), strict=True)]}


def show(features: Features, tokenizer: PreTrainedTokenizerBase, learned: bool = True) -> dict[str, str]:
    """Each field of a row in words: ids as tokens, numbers as they are, all of one number once.

    labels [-100, -100, 17]  ->  · · cat
    """
    words: dict[str, str] = {}
    for name, values in features.items():
        if name in ("documents", "decoder_documents") and len(set(values.tolist())) == 1:
            continue
        ids = name in TOKENS and (name != "labels" or (learned and aligned(features)))
        words[name] = " ".join(spelled(values, tokenizer) if ids else map(str, values.tolist()))
    return words


def aligned(features: Mapping[str, NDArray[Any]]) -> bool:
    """Whether labels are tokens: one for each position of the model's output, not a class of the row or the token."""
    labels = features["labels"]
    return len(labels) > 1 and bool(np.any(labels > 1))


def byte_letters(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The byte of each letter of a byte-level tokenizer; empty of any other."""
    from tokenizers.decoders import ByteLevel
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, ByteLevel):
        return {}
    return {letter: byte for byte, letter in bytes_to_unicode().items()}  # type: ignore[no-untyped-call]


def spelled(ids: NDArray[Any], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    r"""Ids as readable tokens; spaces and line breaks that a token starts with are shown as ▁ and ⏎.

    Byte-level BPE has a letter a byte, which are read: ä»Ĭ -> 今; a part of a character is \xe4\xbb.
    """
    out, letters = [], byte_letters(tokenizer)
    for number in ids.tolist():
        text = NOTHING if number < 0 else str(tokenizer.convert_ids_to_tokens(number))
        if number >= 0 and letters and set(text) <= letters.keys():
            text = bytes(letters[letter] for letter in text).decode(errors="backslashreplace")
        out.append(text.replace(" ", "▁").replace("\n", "⏎"))
    return out
