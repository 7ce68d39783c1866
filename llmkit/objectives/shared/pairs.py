"""Pairs of segments: rows of consecutive sentences, cut in two where chance wants it (BERT, ALBERT)."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.sources import Reader
from llmkit.data.swapping.doubling import doubled_documents
from llmkit.data.tokens import Documents, Ids, entropy, marked, tokenize, total
from llmkit.data.words import Phrases
from llmkit.objectives.base import Objective, Sets, Setup, Sums, only_at, token
from llmkit.objectives.shared.held_out import held_out
from llmkit.system.errors import DataError, RequestError
from llmkit.system.plural import are, many

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

SHORTEST = 8  # tokens of a lone sentence that can still be cut in two
ELSEWHERE = 8  # rows among which one is looked for that could be the other's rest


class Rows:
    """Slices of documents, of several sentences each: as many as fit into `room` tokens, and two at least.

    No sentence is left out: one that is longer than the room makes rows of its own, cut in the middle; where a
    document's last sentence would be alone, the row starts a sentence earlier. What two sentences have beyond the room
    is cut off when the row is drawn, as BERT does it. A document of one sentence is cut in the middle, if that has
    SHORTEST tokens.
    """

    def __init__(self, documents: Documents, room: int) -> None:
        assert documents.sentences is not None
        self.documents, self.room, self.sentences = documents, room, documents.sentences
        self.alone = 0
        """Documents left out: a single short sentence."""
        self.single = self.filled = 0
        """Documents of one sentence, and all that have any."""
        rows = array("q")  # document, start, stop
        for document, (start, stop) in enumerate(zip(documents.starts, documents.stops, strict=True)):
            if stop > start:
                edges = self.within(int(start), int(stop))
                found = slices(edges, room)
                self.single += len(edges) == 2
                self.filled += 1
                self.alone += not found
                for row in found:
                    rows.extend((document, *row))
        table = np.frombuffer(rows, dtype=np.int64).reshape(-1, 3)
        self.document, self.start, self.stop = table[:, 0], table[:, 1], table[:, 2]

    def within(self, start: int, stop: int) -> NDArray[np.int64]:
        """The edges of the sentences of a slice: its start, every sentence that starts inside, its stop."""
        first, last = np.searchsorted(self.sentences, [start + 1, stop])
        return np.concatenate([[start], self.sentences[first:last], [stop]])

    def __len__(self) -> int:
        return len(self.document)

    def __getitem__(self, row: int) -> Ids:
        return self.documents.read(int(self.start[row]), int(self.stop[row]))

    def cuts(self, row: int) -> NDArray[np.int64]:
        """Where a row can be cut in two, counted from its start: between sentences, or else in the middle."""
        start, stop = int(self.start[row]), int(self.stop[row])
        inner = self.within(start, stop)[1:-1] - start
        return inner if len(inner) else np.array([(stop - start + 1) // 2])

    def elsewhere(self, row: int, rng: np.random.Generator) -> int:
        """A random row of another document."""
        first, last = np.searchsorted(self.document, [self.document[row], self.document[row] + 1])
        found = int(rng.integers(len(self) - (last - first)))
        return found if found < first else found + int(last - first)

    @property
    def overfull(self) -> int:
        """Tokens that don't fit when their row is drawn."""
        return int(np.maximum(0, self.stop - self.start - self.room).sum())


def slices(edges: NDArray[np.int64], room: int) -> list[tuple[int, int]]:
    """(start, stop) of each row of a document whose sentences lie between `edges`.

    >>> slices(np.array([0, 40, 80, 120, 160]), 100)
    [(0, 80), (80, 160)]
    >>> slices(np.array([0, 40, 80, 120]), 100)
    [(0, 80), (40, 120)]
    >>> slices(np.array([0, 90, 180, 430]), 100)
    [(0, 180), (180, 263), (263, 346), (346, 430)]
    """
    rows: list[tuple[int, int]] = []
    sentence, last = 0, len(edges) - 1
    while sentence < last:
        start = int(edges[sentence])
        after = int(np.searchsorted(edges, start + room, side="right")) - 1
        if after >= sentence + 2:  # several fit
            rows.append((start, int(edges[after])))
        elif after == sentence:  # one is longer than the room
            after = sentence + 1
            stop = int(edges[after])
            rows += pairwise(np.linspace(start, stop, -(-(stop - start) // room) + 1).astype(int).tolist())
        elif after < last and edges[after + 1] - edges[after] <= room:  # two are more than the room
            after += 1
            rows.append((start, int(edges[after])))
        elif after < last:  # the next makes rows of its own; here it is what follows
            rows.append((start, int(edges[after]) + room))
        elif sentence:  # the last, alone
            rows.append((max(int(edges[sentence - 1]), start - room), int(edges[last])))
        elif edges[after] - start >= SHORTEST:
            rows.append((start, int(edges[after])))
        sentence = after
    return rows


class Pairs:
    """Rows, cut in two and paired anew each time they are drawn."""

    def __init__(self, objective: Any, rows: Rows, setup: Setup) -> None:
        self.objective, self.rows, self.tokenizer = objective, rows, setup.tokenizer

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        """The row, as its objective pairs it; all positions are of one document."""
        drawn: Features = self.objective.draw_pair(self.rows, row, rng, self.tokenizer)
        drawn["documents"] = np.zeros_like(drawn["input_ids"])
        return drawn


def next_pair(rows: Rows, row: int, rng: np.random.Generator) -> tuple[Ids, Ids, int]:
    """(A, B, 0) where B follows A, or with probability 1/2 (A, B, 1) where B is of another document.

    Devlin et al. 2019, §3.1 and A.2. Another B is the rest of another row: of those of ELSEWHERE random rows, from any
    of their sentences on, the one that is nearest in length to the true B. So a B that doesn't follow looks as one that
    does, in its length and in where it starts and ends. The true rest of the row isn't seen in such a pass.
    """
    ids, cuts = rows[row], rows.cuts(row)
    cut = int(cuts[rng.integers(len(cuts))])
    if rng.random() >= 0.5:
        return *truncate(ids[:cut], ids[cut:], rows.room, rng), 0
    others = [rows.elsewhere(row, rng) for _ in range(ELSEWHERE)]
    rests = [rows[other][start:] for other in others for start in rows.cuts(other)]
    rest = min(rests, key=lambda rest: abs(len(rest) - (len(ids) - cut)))
    return *truncate(ids[:cut], rest, rows.room, rng), 1


def order_pair(rows: Rows, row: int, rng: np.random.Generator) -> tuple[Ids, Ids, int]:
    """(A, B, 0) for two consecutive segments, or with probability 1/2 (B, A, 1) (Lan et al. 2020, §3.1)."""
    ids, cuts = rows[row], rows.cuts(row)
    cut = int(cuts[rng.integers(len(cuts))])
    a, b = truncate(ids[:cut], ids[cut:], rows.room, rng)
    return (a, b, 0) if rng.random() >= 0.5 else (b, a, 1)


def truncate(a: Ids, b: Ids, room: int, rng: np.random.Generator) -> tuple[Ids, Ids]:
    """Take tokens from the longer segment until both fit, each from its front or its back (truncate_seq_pair)."""
    if len(a) + len(b) <= room:
        return a, b
    fair = room - room // 2, room // 2
    left = (room - len(b), len(b)) if len(b) <= fair[1] else (len(a), room - len(a)) if len(a) <= fair[0] else fair
    out = []
    for segment, length in zip((a, b), left, strict=True):
        front = int(rng.binomial(len(segment) - length, 0.5))
        out.append(segment[front : front + length])
    return out[0], out[1]


def framed(a: Ids, b: Ids, tokenizer: PreTrainedTokenizerBase) -> Features:
    """[CLS] A [SEP] B [SEP], and to which of the two segments each token belongs."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = np.concatenate([[cls], a, [sep], b, [sep]]).astype(np.int64)
    return {"input_ids": ids, "token_type_ids": np.repeat([0, 1], [len(a) + 2, len(b) + 1])}


def prepare_pairs(
    objective: Objective, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup,
    sentences: str, others: bool, words: str | None = None, phrases: Phrases | None = None,
) -> Sets:
    """Rows of sentences to learn from and to hold out; `others` where a row needs a second document."""
    for role in ("cls", "sep"):
        token(setup.tokenizer, role, "a pair of segments")
    room = setup.max_length - 3
    if room < 2:
        raise RequestError(f"data.max_length: {setup.max_length} leaves no room for two segments between [CLS] and "
                           "two [SEP]; it takes 5.")
    learned = [tokenize(reader, setup.tokenizer, setup.plain) for reader in marked(train, words, sentences, phrases)]
    held: list[Documents] = []
    if isinstance(validation, float):
        learned, held = held_out(learned, validation, setup.seed)
    elif validation:
        held = [tokenize(reader, setup.tokenizer, setup.plain)
                for reader in marked(validation, words, sentences, phrases)]
    learned, swapped, facts = doubled_documents(learned, held, train, setup.seed)
    notes, sets = [], []
    for part, what in ((learned, "data.train"), (held, "data.validation")):
        rows = [Rows(documents, room) for documents in part]
        sets.append([Pairs(objective, some, setup) for some in rows])
        if not part:
            continue
        tokens, alone = total(part, what), sum(some.alone for some in rows)
        single, filled = sum(some.single for some in rows), sum(some.filled for some in rows)
        if what == "data.train" and 2 * single > filled and filled > 1:
            raise DataError(
                f"{what}: {single:,} of {filled:,} documents have one sentence only: cut in two, they have no next "
                "sentence. If each line is a sentence, put blank lines between documents (data.document: paragraph) or "
                "take each file as one document (data.document: file). masked_lm learns from single sentences.")
        if not sum(map(len, rows)):
            raise DataError(f"{what}: no document has two sentences, or one of {SHORTEST} tokens that can be cut.")
        for some in rows:
            if others and len(some) and some.document[0] == some.document[-1]:
                raise DataError(f"{what}: next sentences from elsewhere need two documents in each source, and there "
                                "is one; blank lines part documents (data.document: paragraph). For a single document "
                                "there is sentence_order, or masked_lm_next_sentence with pairs: order.")
        size, laid = many(tokens, "token"), many(sum(map(len, rows)), "row")
        notes.append(f"{size} to train on in {laid} of two segments" if what == "data.train" else
                     f"{size} held out in {laid} of two segments")
        if single > alone:
            notes.append(f"{what}: {single - alone:,} of {filled:,} documents have one sentence only, and are cut "
                         "inside it")
        if alone:
            notes.append(f"{what}: {many(alone, 'document')} of one short sentence {are(alone)} left out")
        if over := sum(some.overfull for some in rows):
            notes.append(f"{what}: {over:,} tokens are beyond rows of {setup.max_length} and are cut off, now at one "
                         "end, now at the other")
    return Sets(sets[0], sets[1], [*notes, *swapped], {"unigram_entropy": entropy(learned), **facts})


def relation(outputs: Any) -> Tensor:
    """The logits (rows, 2) of how two segments belong together, whatever a model calls them."""
    name = next(name for name in ("sop_logits", "seq_relationship_logits", "logits") if name in outputs)
    logits: Tensor = outputs[name]
    return logits.float()


def told(pairs: Sequence[tuple[Any, Any]]) -> Mapping[str, float]:
    """Accuracy, F1 of label 1, and the accuracy of always saying the more frequent label."""
    right = sum(predicted == true for predicted, true in pairs)
    hits = sum(predicted == true == 1 for predicted, true in pairs)
    ones, said = sum(true for _, true in pairs), sum(predicted for predicted, _ in pairs)
    count = max(1, len(pairs))
    return {"accuracy": right / count, "f1": 2 * hits / max(1, ones + said),
            "majority": max(ones, len(pairs) - ones) / count}


def collate_pairs(rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Rows to a batch: padded (rows, longest), but what a row has once is (rows,)."""
    batch = stack(rows, {"input_ids": tokenizer.pad_token_id or 0, "labels": -100})
    for name in ("labels", "next_sentence_label"):
        if name in batch and len(rows[0][name]) == 1:
            batch[name] = batch[name][:, 0]
    return batch


def count_rows(labels: Tensor) -> Tensor:
    """How many rows have a label."""
    import torch

    return torch.tensor(len(labels), device=labels.device)


def judge_pairs(
    model: nn.Module, batch: Batch, family: type[Family], head: str,
) -> tuple[Sums, list[tuple[Any, Any]]]:
    """The loss of the pairs, and (predicted, true) labels."""
    logits = relations(model, batch, family, head)
    pairs = list(zip(logits.argmax(-1).tolist(), batch["labels"].tolist(), strict=True))
    return {"loss": of_relations(logits, batch)}, pairs


def relations(model: nn.Module, batch: Batch, family: type[Family], head: str) -> Tensor:
    """The logits of the pairs, (rows, 2); no token's logits exist, where the model has such a head."""
    import torch

    inputs = {name: part for name, part in batch.items() if name != "labels"}
    nowhere = torch.zeros(0, dtype=torch.long, device=inputs["input_ids"].device)
    with only_at(model, family.heads[head], nowhere) if head == "AutoModelForPreTraining" else nullcontext():
        return relation(family.outputs(model, inputs))


def of_relations(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy of the pairs, summed."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, batch["labels"], reduction="sum")
