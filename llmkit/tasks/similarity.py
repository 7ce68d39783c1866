"""Similarity: embeddings of texts whose cosine says how much two texts mean the same."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features, stack
from llmkit.data.fields import no_text
from llmkit.data.sources import Place, Reader
from llmkit.data.tokens import shortened
from llmkit.objectives.base import Judged, Sets, Setup, Sums
from llmkit.objectives.shared.embedding import Pooling, describe, embed, found
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import Encoded, Floors, Prediction, Row, Task, say
from llmkit.tasks.shared.figures import FLOOR_ROWS, agreement, words_of
from llmkit.tasks.shared.labels import measured

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

NEGATIVE = re.compile(r"(hard_)?neg(ative)?s?(_?[0-9]+)?", re.I)
"""A column with a text, or a list of texts, that doesn't go with the first one: negative, negative_1, neg."""
UNSCORED = -1e6
"""What stands for the score of a pair that has none."""


@dataclass(config=OPTIONS)
class Similarity(Task):
    """Pairs of texts with a score, or pairs that belong together; the result embeds one text at a time.

    Texts that don't belong to the first may stand beside a pair: in columns negative, negative_1, …, or a list (neg).
    """

    loss_type: Literal["auto", "cosent", "cosine", "negatives"] = "auto"
    """cosent: pairs of a higher score get a higher cosine (Su 2022); cosine: the squared error of cosine and
    score; negatives: each first text's second one is told from those of all other rows of the step (Henderson et al.
    2017, section 4). auto: cosent where pairs have scores, else negatives. Where the range of scores is known,
    cosine learned STS-B better."""
    pooling: Pooling = "mean"
    """What of the last hidden states is the embedding: their mean, or the one of [CLS]."""
    temperature: Annotated[float, Field(gt=0)] = 0.05
    """What cosines are divided by, in cosent and negatives."""
    score_range: tuple[float, float] | None = None
    """The lowest and the highest score that there can be, which cosine scales to 0 and 1; [0, 1] needs no saying."""

    shapes = frozenset({"encoder"})
    head = "AutoModel"
    whole = True
    idle = True  # a pooler that nothing reads
    wanted = {
        "sentence1": ("text", "anchor", "premise", "sentence_a", "question1", "query", "question", "source", "text_a"),
        "sentence2": ("text_pair", "positive", "hypothesis", "sentence_b", "question2", "passage", "answer", "target",
                      "text_b", "pos"),
    }
    optional = {"score": ("similarity", "rating", "label", "is_duplicate", "relatedness_score")}
    example = (
        {"sentence1": "A cat sleeps.", "sentence2": "The cat is asleep.", "score": 0.9},
        {"sentence1": "A cat sleeps.", "sentence2": "The train was late.", "score": 0.1},
    )
    answers = ("score",)
    varies = True

    def __post_init__(self) -> None:
        if self.score_range is not None and self.score_range[0] >= self.score_range[1]:
            raise ValueError("score_range is the lowest and the highest score")
        if self.score_range is not None and self.loss_type != "cosine":
            raise ValueError("score_range is for loss_type: cosine")

    # ---- rows ----

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """A score is needed where it is what is learned."""
        columns = super().columns(row, reader, answered)
        if answered and "score" not in columns and self.loss_type in ("cosent", "cosine"):
            raise DataError(f"{reader.name}: no column is called 'score', which loss_type: {self.loss_type} learns; "
                            f"name it in the recipe: data.train: {{source: {reader.label}, fields: {{score: COLUMN}}}},"
                            " or say loss_type: negatives.")
        return columns | self.later(row, columns, reader, answered)

    def later(
        self, row: Mapping[Any, Any], columns: Mapping[str, str | int], reader: Reader, answered: bool,
    ) -> dict[str, str | int]:
        """Columns of negatives, which the first row may lack; what is compared with a score has one, and needs none."""
        names = [] if "score" in columns or not answered else [
            name for name in row if NEGATIVE.fullmatch(str(name)) and name not in columns.values()]
        return {f"negative {len(columns) + i}": name for i, name in enumerate(names)}

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Both texts are texts, or the second a list of them; a score is a number; `negatives` where a row has some."""
        others = {columns[name]: row.pop(name) for name in list(row) if name.startswith("negative ")}
        row = super().check(row, columns, place)
        several = row["sentence2"] if isinstance(row["sentence2"], list) else [row["sentence2"]]
        for name, texts in (("sentence1", [row["sentence1"]]), ("sentence2", several)):
            if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
                raise no_text(name, columns[name], row[name], place)
        negatives: list[str] = []
        for column, said in others.items():
            some = said if isinstance(said, list) else [] if said is None else [said]
            if not all(isinstance(one, str) for one in some):
                raise DataError(f"{place}: the field {column!r} is no text: {said!r}.")
            negatives += [one for one in some if one.strip()]
        if negatives:
            row = {**row, "negatives": negatives}
        if "score" not in row:
            return row
        score = measured(row["score"])  # 10**400 is too large for a float
        if score is None:
            raise DataError(f"{place}: the score {row['score']!r} is no number.")
        return {**row, "score": score}

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Rows of two texts: one for each that a list says belongs to the first.

        None of a list is a negative of its others: they are `alike`.
        """
        rows, pairs = 0, 0
        for row, place in super().stream(reader, answered):
            several = row["sentence2"] if isinstance(row["sentence2"], list) else [row["sentence2"]]
            alike = {"alike": several[0]} if len(several) > 1 else {}
            for one in several:
                yield {**row, "sentence2": one, **alike}, place
            rows, pairs = rows + bool(alike), pairs + (len(several) if alike else 0)
        if rows and answered:
            say(reader, f"{reader.name}: {rows:,} rows have several texts that belong to their first one; they are "
                        f"{pairs:,} pairs, and none is a negative of another of its row")

    def together(self, row: Row) -> str:
        """Pairs of one row are held out together."""
        return repr((row["sentence1"], row["alike"])) if "alike" in row else super().together(row)

    def texts(self, reader: Reader) -> Iterator[str]:
        """What a tokenizer is trained on: all texts."""
        for row, _ in self.read(reader):
            yield from (row["sentence1"], row["sentence2"], *row.get("negatives", ()))

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say what is learned from them; sources have scores all or none."""
        sets = super().prepare(train, validation, setup)
        scored = {"score" in row for part in sets.train if isinstance(part, Encoded) for row in part.rows}
        if len(scored) > 1:
            raise DataError("data.train: some sources have scores and some have none; train on one kind, or say "
                            "task.loss_type: negatives and leave the scores' column out.")
        kind = self.loss_type if self.loss_type != "auto" else "cosent" if scored == {True} else "negatives"
        why = "" if self.loss_type != "auto" else f": pairs have {'scores' if scored == {True} else 'no scores'}"
        parts = [part for part in (*sets.train, *sets.validation) if isinstance(part, Encoded)]
        most = max((len(one["negatives"]) for part in parts for one in part.features if "negatives" in one), default=0)
        notes = [*sets.notes, f"loss_type {kind}{why}"]
        if most:
            for part in parts:
                part.features = [with_negatives(one, most) for one in part.features]
            count = sum(len(row.get("negatives", ())) for part in parts for row in part.rows)
            pairs = sum(len(part.rows) for part in parts)
            notes.append(f"{count:,} negatives stand beside {pairs:,} pairs, "
                         f"{most} beside one at most")
        return Sets(sets.train, sets.validation, notes, sets.facts)

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Both texts one after the other, each with its special tokens; `sizes` says where the second starts.

        the cat | a dog  ->  [CLS] the cat [SEP] [CLS] a dog [SEP]

        Texts that don't belong to the first stand behind both.
        """
        if not rows:
            return []
        sides = []
        for name in self.wanted:
            ids, over = shortened(setup.tokenizer, [row[name] for row, _ in rows], setup.max_length)
            cut += over
            sides.append(ids)
        out: list[Features] = []
        for first, second, (row, place) in zip(*sides, rows, strict=True):
            features: Features = {"input_ids": np.array([*first, *second], dtype=np.int64),
                                  "sizes": np.array([len(first), len(second)])}
            features["documents"] = np.zeros_like(features["input_ids"])
            features["twin"] = np.array([twin(row.get("alike", row["sentence2"]))])
            if "negatives" in row:
                others, over = shortened(setup.tokenizer, row["negatives"], setup.max_length)
                cut += over
                features |= appended(features, others, [twin(one) for one in row["negatives"]])
            if "score" in row:
                features["score"] = np.array([self.scaled(row["score"], place)], dtype=np.float32)
            out.append(features)
        return out

    def scaled(self, score: float, place: Place) -> float:
        """A score as it is compared with a cosine; in a ranking its scale doesn't matter."""
        if self.loss_type != "cosine":
            return score
        low, high = self.score_range or (0.0, 1.0)
        if not low <= score <= high:
            raise DataError(f"{place}: the score {score:g} is not from {low:g} to {high:g}; task.score_range says "
                            "which scores there can be.")
        return (score - low) / (high - low)

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """The texts of each row one below the other, (2 rows, longest), and what is known of each pair.

        With negatives, of which all rows have the same number, there are as many texts more.
        """
        import torch

        texts: list[Features] = []
        for row in rows:
            starts = np.cumsum(row["sizes"])[:-1]
            parts = {name: np.split(row[name], starts) for name in ("input_ids", "documents")}
            texts += [{name: parts[name][side] for name in parts} for side in range(len(row["sizes"]))]
        batch = stack(texts, {"input_ids": tokenizer.pad_token_id or 0})
        for name in ("twin", "score"):
            if name in rows[0]:
                batch[name] = torch.from_numpy(np.concatenate([row[name] for row in rows]))
        if "negatives" in rows[0]:
            batch["negatives"] = torch.from_numpy(np.stack([row["negatives"] for row in rows]))
        return batch

    # ---- loss ----

    @property
    def unteachable(self) -> str:
        """A teacher has a cosine for each pair, too."""
        return ""

    def grade(self, representations: Tensor) -> Tensor:
        """The cosine of each pair, (rows,)."""
        from torch.nn.functional import cosine_similarity

        return cosine_similarity(representations[:, 0, :-1], representations[:, 1, :-1], -1)

    def targets(self, batch: Batch) -> Sums:
        """One pair a row."""
        import torch

        return {"loss": torch.tensor(len(batch["twin"]), device=batch["input_ids"].device)}

    def pairs(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """The embeddings of each pair: (rows, 2, width); its negatives behind it, where it has some."""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("twin", "score", "negatives")}
        embedded = embed(model, inputs, family, self.pooling).float()
        return embedded.view(len(batch["twin"]), -1, embedded.shape[-1])

    def represent(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Each pair's embeddings with what is known of it behind: (rows, 2, width + 1), score above, twin below.

        Behind each negative stands its own twin; -1 where there is none.
        """
        import torch

        pairs = self.pairs(model, batch, family)
        score = batch.get("score", torch.full_like(batch["twin"], UNSCORED, dtype=torch.float32))
        known = torch.stack([score, batch["twin"].float()], 1)
        if "negatives" in batch:
            known = torch.cat([known, batch["negatives"].float()], 1)
        return torch.cat([pairs, known[:, :, None]], 2)

    def compare(self, representations: Tensor) -> Sums:
        """The losses of a step's pairs, whose embeddings meet here from all micro-batches and processes."""
        import torch
        from torch.nn.functional import mse_loss, normalize

        embedded, known = representations[..., :-1], representations[..., -1].detach()
        first, second, *others = normalize(embedded, dim=-1).unbind(1)
        scores, twins, *other_twins = known.unbind(1)
        if self.loss_type == "negatives" or float(scores.max()) <= UNSCORED:
            if others:
                second, twins = torch.cat([second, *others]), torch.cat([twins, *other_twins])
            return {"loss": apart(first @ second.T / self.temperature, twins)}
        cosines = (first * second).sum(-1)
        if self.loss_type == "cosine":
            return {"loss": mse_loss(cosines, scores, reduction="sum")}
        return {"loss": ranked(cosines / self.temperature, scores) * len(cosines)}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """The loss where these pairs are all there are."""
        return self.compare(self.represent(model, batch, family))

    def describe(self, folder: Path, setup: Setup) -> None:
        """Write the files by which sentence-transformers opens the model with its pooling."""
        describe(folder, self.pooling)

    # ---- predictions ----

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The cosine of each pair."""
        from torch.nn.functional import cosine_similarity

        first, second, *_ = self.pairs(model, batch, family).cpu().double().unbind(1)  # cosines may all be close to 1
        return cosine_similarity(first, second).tolist()

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The embeddings of each pair; they are compared once all are there."""
        import torch

        pairs = self.pairs(model, batch, family)
        finite = pairs.isfinite().all()  # what isn't must be told, though the loss comes later
        return {"loss": torch.zeros_like(pairs[0, 0, 0]).where(finite, torch.nan)}, list(pairs.cpu().numpy())

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The cosine, from -1 to 1."""
        (cosine,) = outcomes
        return {"score": cosine}

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """With scores, their correlation with the cosines; without, whether each text's second one is the closest.

        `loss` is what is learned, over all these rows at once.
        """
        import torch
        from torch.nn.functional import normalize

        pairs = {row: pair for numbers, some in judged for row, pair in zip(numbers, some, strict=True)}
        rows = [row for part in sets if isinstance(part, Encoded) for row in part.rows]
        ordered = torch.from_numpy(np.stack([pairs[i] for i in range(len(rows))])).double()
        first, second, *others = normalize(ordered, dim=-1).unbind(1)
        scored = all("score" in row for row in rows)
        if not scored or self.loss_type == "negatives":
            if len(rows) < 2:
                raise DataError("data.validation: pairs without scores are compared with each other; there is one.")
            there = [one[[i for i, row in enumerate(rows) if len(row.get("negatives", ())) > number]]
                     for number, one in enumerate(others)]
            figures = found(first, torch.cat([second, *there]), self.temperature, [row.get("alike") for row in rows])
        if not scored:
            return figures
        cosines = (first * second).sum(-1)
        scores = np.array([row["score"] for row in rows])
        if self.loss_type == "cosine":
            wanted = torch.tensor([self.scaled(score, Place("data.validation", None)) for score in scores.tolist()])
            loss = float((cosines - wanted).square().mean())
        elif self.loss_type == "negatives":
            loss = figures["loss"]
        else:
            loss = float(ranked(cosines / self.temperature, torch.from_numpy(scores)))
        return {"loss": loss, **agreement(cosines.numpy(), scores)}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """Cosines of the texts' TF-IDF, its frequencies from the training rows' texts, or from these where none are."""
        words = words_of(row[name] for row in learned[:FLOOR_ROWS] or held for name in self.wanted)
        if words is None:
            return {}
        first, second = (words.transform([row[name] for row in held]) for name in self.wanted)
        if all("score" in row for row in held):
            cosines = np.asarray(first.multiply(second).sum(1)).ravel()
            return {"TF-IDF, cosine": agreement(cosines, np.array([row["score"] for row in held]))}
        if others := [one for row in held for one in row.get("negatives", ())]:
            from scipy.sparse import vstack

            second = vstack([second, words.transform(others)]).tocsr()
        right = sum(int((np.asarray((first[start : start + 1024] @ second.T).argmax(1)).ravel()
                         == np.arange(start, min(start + 1024, len(held)))).sum())
                    for start in range(0, len(held), 1024))
        return {"TF-IDF, cosine": {"accuracy": right / len(held)}}


def twin(text: str) -> int:
    """A number that equal texts share and others hardly ever do; float32 holds it exactly."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=3).digest())


def appended(features: Features, others: Sequence[Sequence[int]], twins: Sequence[int]) -> Features:
    """Features with more texts behind them."""
    ids = np.concatenate([features["input_ids"], *(np.array(one, np.int64) for one in others)])
    return {"input_ids": ids, "documents": np.zeros_like(ids), "negatives": np.array(twins, np.int64),
            "sizes": np.array([*features["sizes"], *map(len, others)])}


def with_negatives(features: Features, most: int) -> Features:
    """Features of so many negatives: where there are fewer, the second text stands for them, and -1 for its twin."""
    have = features.get("negatives", np.zeros(0, np.int64))
    start, size = features["sizes"][:2]
    again = [features["input_ids"][start : start + size].tolist()] * (most - len(have))
    return {**features, **appended(features, again, [*have, *[-1] * len(again)])}


def apart(scaled: Tensor, twins: Tensor) -> Tensor:
    """Cross-entropy of each row's own column, summed; an equal second text of another row is no negative.

    Columns beyond the rows are negatives; those whose twin is -1 aren't there.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if scaled.shape[1] < 2:
        raise RequestError("training.global_batch_size: negatives are the other rows of a step; take 2 or more.")
    own = torch.arange(len(scaled), device=scaled.device)
    same = (twins[: len(scaled), None] == twins[None]) | (twins[None] == -1)
    same[own, own] = False
    return cross_entropy(scaled.masked_fill(same, float("-inf")), own, reduction="sum")


def ranked(scaled: Tensor, scores: Tensor) -> Tensor:
    """log(1 + sum of exp(cos_j - cos_i) over all i, j of which i has the higher score), cosines over the temperature.

    Su 2022, "CoSENT": one number for all rows. Sorted by score, the j below each i are those before it: memory grows
    with the rows, not with the pairs of them.
    """
    import torch

    rising, order = scores.sort()
    scaled = scaled[order]
    below = torch.searchsorted(rising, rising)  # how many have a lower score
    wrong = scaled.logcumsumexp(0)[below.clamp(min=1) - 1] - scaled
    return torch.cat([wrong.new_zeros(1), wrong.where(below > 0, -torch.inf)]).logsumexp(0)
