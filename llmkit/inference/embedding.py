"""Embedding: texts go in, a vector comes out for each, close to the vectors of texts that mean the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llmkit.data.encoder import Unknown
from llmkit.models import Base, Opened, open_model, pooling
from llmkit.models.families import family_for
from llmkit.models.files import read_json
from llmkit.models.pooling import Pooling
from llmkit.models.run import Run
from llmkit.planning import choices
from llmkit.planning.choices import Precision
from llmkit.system import devices
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.system.finite import stopped
from llmkit.system.report import log

if TYPE_CHECKING:
    from torch import nn

    from llmkit.backbones.base import Family

Vectors: TypeAlias = NDArray[np.float32]
"""(texts, width)."""
Role: TypeAlias = Literal["query", "document"]

CHUNK = 2048
"""Texts that are sorted by length among themselves: memory beside the vectors doesn't grow with their number."""
COMPARED = 16
"""Vectors of 16 bits that are computed in fp32 too."""
ROOM, ROOM_ON_A_GPU = 4096, 65536
"""Positions of a batch, padding included."""
PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""What models call the prompts that they were trained to see before a question, and before a text to be found."""


@dataclass(frozen=True)
class Embedder:
    """A sentence encoder, kept open: `Embedder.open("minilm-l6").embed(texts)`. For one thread at a time."""

    name: str
    opened: Opened
    body: nn.Module
    """What makes the hidden states: the model without its head."""
    pooling: tuple[str, ...]
    """What of the last hidden states is the embedding (`models.pooling.MODES`); of several, they stand side by side."""
    normalize: bool
    """Whether the model's files say that its vectors have length 1."""
    max_length: int
    """Tokens of a text that are read, special ones included; the rest is left out, and said."""
    lower: bool = False
    """Whether the model reads lower case only, and its tokenizer doesn't see to it."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What the model was trained to see before a text, by the model's own name for it."""
    default_prompt: str | None = None
    device: str = "cpu"
    numbers: Precision = "fp32"
    """What it computes in; vectors are float32 in any case."""
    together: devices.AtOnce = field(default_factory=lambda: devices.AtOnce("texts"), repr=False, compare=False)
    """How many texts of a batch the device takes."""

    @cached_property
    def unknown(self) -> Unknown:
        """What the tokenizer didn't know of all texts; said once."""
        return Unknown(self.opened.tokenizer)

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.opened.model.config.get_text_config().hidden_size) * len(self.pooling)

    @property
    def room(self) -> int:
        """Tokens of a text that are read, without special ones and the prompt before a text to be found."""
        prompt = self.opened.tokenizer(self._prompt("document"), add_special_tokens=False)["input_ids"]
        return self.max_length - self.opened.tokenizer.num_special_tokens_to_add() - len(prompt)

    @classmethod
    def open(cls, name: str | Path, precision: str = "auto") -> Embedder:
        """A run, a folder, a catalogue name or a hub id.

        Pooling, length and prompts are those of sentence-transformers' files (`modules.json`, `1_Pooling/config.json`,
        …), which runs of `contrastive` and `similarity` have too. An encoder without them: the mean of its last hidden
        states. `precision`: fp32, bf16 or fp16; `auto`: what a run learned in, where this machine is fast in it, else
        fp32. RequestError for a model that only writes, and for modules that llmkit doesn't know.
        """
        base = Base.open(name)
        folder, said = base.folder, _Files(base.folder)
        run = Run.open(folder)
        learned = run.recipe if run is not None and folder.name == run.model.name else None
        if not base.is_adapter:  # before the weights are read
            _check(str(name), base.family, said)
            choices.answering_in(precision, base.family, learned)
        opened = open_model(base, None if base.is_adapter else "AutoModel")
        config = opened.model.config
        family = family_for(config) if base.is_adapter else base.family
        if base.is_adapter:
            _check(str(name), family, said)
        lost = [weight for weight in opened.missing if not weight.startswith("pooler")]  # which nothing reads here
        if lost:
            raise CheckpointError(f"{folder} lacks {len(lost)} weights, {lost[0]} first.")
        if not said.pooling.modes:
            log.info("%s: its files don't say how texts become vectors; each is the mean of its last hidden states",
                     name)
        # beyond the tokens of a row that a run learned from, its positions are untrained
        limits = [said.max_length, opened.tokenizer.model_max_length,
                  None if learned is None else learned.data.max_length]
        positions = family.position_limit(config)
        limits.append(None if positions is None else positions - opened.virtual_tokens)
        device = devices.kind()
        return cls(str(name), opened, _body(str(name), opened).to(device), said.pooling.modes or ("mean",),
                   said.pooling.normalized, int(min(limit for limit in limits if limit is not None)), said.lower,
                   said.prompts, said.default_prompt, device, choices.answering_in(precision, family, learned))

    def ids(self, texts: Sequence[str], role: Role | None = None) -> tuple[list[list[int]], int]:
        """The token ids of each text, special ones included, at most `max_length`; and how many texts were cut."""
        from llmkit.data.tokens import shortened
        from llmkit.models import quiet

        before = self._prompt(role)
        given = [before + (text.lower() if self.lower else text) for text in texts]
        with quiet():
            ids, cut = shortened(self.opened.tokenizer, given, self.max_length)
        return ids, len(cut)

    def embed(
        self, texts: Sequence[str], role: Role | None = None, done: Callable[[int], None] | None = None,
    ) -> Vectors:
        """A vector for each text: (texts, width), float32; of length 1 where the model's files say so.

        `role` puts before each text what the model was trained to see before a query, or before a text to be found;
        most models make no difference. A vector doesn't depend on what else is embedded. `done` is told after each
        batch how many texts were in it. RequestError for a text of no token.
        """
        vectors = np.empty((len(texts), self.width), np.float32)
        cut = 0
        for start in range(0, len(texts), CHUNK):
            ids, some = self.ids(texts[start : start + CHUNK], role)
            cut += some
            self.unknown.see([one for row in ids for one in row], texts[start : start + CHUNK])
            empty = next((i for i, row in enumerate(ids) if not row), None)
            if empty is not None:
                raise RequestError(f"text {start + empty + 1} of {len(texts)} is empty: it has no token to embed.")
            vectors[start : start + len(ids)] = self.vectors(ids, done)
            if self.numbers != "fp32" and start == 0:
                self._beside_fp32(ids[:COMPARED], vectors[:COMPARED])
        if cut:
            log.info("%s reads %d tokens: the ends of %d of %d texts are left out", self.name, self.max_length, cut,
                     len(texts))
        self.unknown.warn(self.name)
        return vectors

    def framed(self, tokens: Sequence[int]) -> list[int]:
        """The ids of a text, given without special tokens, as the model reads them."""
        from llmkit.tasks.shared.tagged.words import around

        tokenizer = self.opened.tokenizer
        prompt = tokenizer(self._prompt(None), add_special_tokens=False)["input_ids"]
        before, after = around(tokenizer)
        return [*before, *prompt, *tokens, *after]

    def vectors(self, ids: Sequence[list[int]], done: Callable[[int], None] | None = None) -> Vectors:
        """The vectors (texts, width) of token ids, special ones included; `done` is told of each batch's texts."""
        found = np.empty((len(ids), self.width), np.float32)
        for rows in _batches([len(row) for row in ids], ROOM if self.device == "cpu" else ROOM_ON_A_GPU):
            found[np.array(rows)] = self.together.do([ids[row] for row in rows], self._vectors)
            if done is not None:
                done(len(rows))
        return found

    def _vectors(self, ids: Sequence[list[int]]) -> Vectors:
        import torch
        longest = max(map(len, ids))
        padding = self.opened.tokenizer.pad_token_id or 0
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        inputs = {"input_ids": torch.tensor([row + [padding] * (longest - len(row)) for row in ids],
                                            device=self.device)}
        mask = (torch.arange(longest, device=self.device)[None] < lengths[:, None]).long()
        if min(map(len, ids)) < longest:
            inputs["attention_mask"] = mask
        with torch.inference_mode(), choices.computing_in(self.numbers, self.device):
            hidden = self.body(**inputs).last_hidden_state.float()
            out: Vectors = Pooling(self.pooling, self.normalize).vectors(hidden, mask).cpu().numpy()
        if not np.isfinite(out).all():
            raise stopped(self.name)
        return out

    def _beside_fp32(self, ids: Sequence[list[int]], vectors: Vectors) -> None:
        """Say once, how far the first vectors are from those in fp32."""
        if self._compared:
            return
        self._compared.append(True)
        whole = replace(self, numbers="fp32").vectors(ids)
        cosines = (whole * vectors).sum(1) / np.maximum(
            np.linalg.norm(whole, axis=1) * np.linalg.norm(vectors, axis=1), 1e-30)
        log.info("%s computes in %s: the first %s of cosine %.5f or more with those of fp32", self.name, self.numbers,
                 "vector is" if len(ids) == 1 else f"{len(ids)} vectors are", min(1.0, float(cosines.min())))

    @cached_property
    def _compared(self) -> list[bool]:
        """Whether that was said."""
        return []

    def _prompt(self, role: str | None) -> str:
        names = [*PROMPTS.get(role or "", ()), self.default_prompt or ""]
        return next((self.prompts[name] for name in names if name in self.prompts), "")

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that vectors depend on: weights, tokenizer, pooling; not of names or places."""
        base = Base.open(self.opened.folder)
        folders = [base.folder, *([base.below.folder] if base.is_adapter else [])]
        whole = hashlib.sha256(json.dumps([self.pooling, self.normalize, self.max_length, self.lower,
                                           dict(self.prompts), self.default_prompt,
                                           *([] if self.numbers == "fp32" else [self.numbers])]).encode())
        for folder in folders:
            for path in sorted(folder.iterdir()):
                if path.suffix in (".safetensors", ".json", ".txt", ".model"):
                    with path.open("rb") as file:
                        whole.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()


class _Files:
    """What a folder's files for sentence-transformers say; without any, nothing."""

    def __init__(self, folder: Path) -> None:
        path = folder / "sentence_bert_config.json"
        about = read_json(path) if path.is_file() else {}
        self.max_length: int | None = about.get("max_seq_length")
        _must(path, "max_seq_length", self.max_length, "a whole number above 0", lambda length: length is None or (
            isinstance(length, int) and not isinstance(length, bool) and length > 0))
        self.lower = bool(about.get("do_lower_case"))
        path = folder / "config_sentence_transformers.json"
        prompting = read_json(path) if path.is_file() else {}
        self.prompts: dict[str, str] = prompting.get("prompts") or {}
        _must(path, "prompts", self.prompts, "an object of texts", lambda prompts: isinstance(prompts, dict) and all(
            isinstance(text, str) for text in prompts.values()))
        self.default_prompt: str | None = prompting.get("default_prompt_name")
        _must(path, "default_prompt_name", self.default_prompt, "a name", lambda name: isinstance(name, str | None))
        self.pooling = pooling.read(folder, bool(self.prompts))


def _must(path: Path, field: str, value: Any, what: str, fits: Callable[[Any], bool]) -> None:
    """CheckpointError where a field of a model's file is of another kind."""
    if not fits(value):
        raise CheckpointError(f"{path}: {field} must be {what}, not {value!r:.60}.")


def _check(name: str, family: type[Family], said: _Files) -> None:
    """Refuse what reads and writes, and decoders that weren't trained to embed: their states foretell the next word."""
    if family.shape == "encoder" or (family.shape == "decoder" and said.pooling.modes):
        return
    raise RequestError(
        f"{name} is no sentence encoder: a {family.model_type} is made to write text, and nothing in its folder says "
        "how its states become a vector. Use minilm-l6, or train an encoder by the objective contrastive or the task "
        "similarity.")


def _body(name: str, opened: Opened) -> nn.Module:
    """The model without a head. An adapter was trained with one, and its layers stand in the body already."""
    model: Any = opened.model
    if opened.kind == "AutoModel":
        return model  # type: ignore[no-any-return]
    if opened.virtual_tokens:
        raise RequestError(f"{name}: its virtual tokens were trained for another head ({opened.kind}); use a run of "
                           "contrastive or similarity.")
    return model.get_base_model().base_model  # type: ignore[no-any-return]


def _batches(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Rows of like length together, the longest first, as many as `room` holds with their padding.

    >>> _batches([2, 9, 3, 8], 18)
    [[1, 3], [2, 0]]
    """
    out: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not out or (len(out[-1]) + 1) * lengths[out[-1][0]] > room:
            out.append([])
        out[-1].append(row)
    return out
