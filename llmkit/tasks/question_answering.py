"""Question answering: the answer to a question is a span of a context (SQuAD), or there is none (SQuAD 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.fields import no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sentences import sentences
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Response, Responses, Sets, Setup, Sums
from llmkit.recipe import Positive
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError, RequestError
from llmkit.system.plural import are, many
from llmkit.tasks.base import Encoded, Floors, Prediction, Row, Task, say
from llmkit.tasks.shared.answers import normalized, scores, segments
from llmkit.tasks.shared.forms.documents import has_documents, with_context
from llmkit.tasks.shared.forms.nested_questions import is_header, is_nested, questions
from llmkit.tasks.shared.frame import frame_of
from llmkit.tasks.shared.lists import unwritten

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

EXTRA = ("start_positions", "end_positions", "starts", "ends", "null")
"""What a batch has beside the model's inputs."""
FAR = -1e30
"""A logit for places that can't be: a finite one, so that half precision and sums stay numbers."""


@dataclass(config=OPTIONS)
class QuestionAnswering(Task):
    """The span of a context that answers a question; reports exact match and F1 by SQuAD's rules, or CMRC 2018's."""

    doc_stride: Annotated[int, Field(ge=0)] = 128
    """Tokens that two parts of a context too long for data.max_length share; at most half of a part."""
    n_best_size: Positive = 20
    """Spans of each part that are compared."""
    max_answer_length: Positive = 30
    """Tokens that an answer may have."""
    version_2_with_negative: bool = False
    """Whether questions may have no answer in their context (SQuAD 2)."""
    null_score_diff_threshold: float = 0.0
    """No answer is said where its score is above that of the best span by more than this."""

    shapes = frozenset({"encoder", "decoder", "encoder-decoder", "permuted"})
    head = "AutoModelForQuestionAnswering"
    wanted = {
        "question": ("query", "query_text"),
        "context": ("passage", "paragraph", "document", "text", "context_text"),
        "answers": ("answer", "response"),
    }
    answers = ("answers",)
    example = (
        {"question": "Who wrote notes?", "context": "Ada wrote notes on a machine.", "answers": "Ada"},
        {"question": "Where is the machine?", "context": "The machine is in a museum.", "answers": "in a museum"},
    )
    verb = "answer"
    optional = {"id": ("query_id", "qid"), "answer_start": ()}

    # ---- rows ----

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """A row a question: those of an article, or of a text with its questions (CMRC 2018), one after the other."""
        nested, chosen, unfound = 0, 0, 0
        for row, place in reader.rows():
            if is_header(row):
                continue
            try:
                found = list(questions(row, place))
            except DataError as error:
                reader.spare(error)
                continue
            nested += len(found) if is_nested(row) else 0
            for one in found:
                several = has_documents(one)
                read = with_context(one, answered) if several else one
                chosen += several
                unfound += read is None
                if read is not None:
                    yield read, place
        if chosen:
            why = "no answer of theirs stands in a paragraph letter for letter"
            say(reader, f"{reader.name}: {chosen:,} questions have several documents; the context is "
                        + ("the paragraph of a chosen one that has the answer" if answered else "all that was chosen")
                        + (f"; {unfound:,} are left out, for {why}" if unfound else ""))
        if nested:
            say(reader, f"{reader.name}: {many(nested, 'question')} {are(nested)} nested in their texts; each is a row")

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Rows whose answers have the place where they are; what is odd is told among the reader's notes."""
        moved, silent = list[str](), list[str]()
        for row, place in super().stream(reader, answered):
            moved += [f"{place} ({text!r})" for text in row.pop("moved", ())]
            silent += [str(place)] if not row["question"].strip() else []
            yield row, place
        notes = [f"{many(len(moved), 'answer')} {are(len(moved))}n't where answer_start says, the first at {moved[0]}; "
                 "of each, the nearest place where it is was taken"] if moved else []
        if silent:
            notes.append(f"{many(len(silent), 'question')} {are(len(silent))} empty, the first at {silent[0]}")
        reader.notes += [note for note in notes if note not in reader.notes]

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Responses become a list of {text, answer_start}, whichever of the usual forms they have; no answer is []."""
        for name in ("question", "context"):
            if not isinstance(row[name], str):
                raise no_text(name, columns[name], row[name], place)
        if not row["context"].strip():
            raise DataError(f"{place}: the field {columns['context']!r} is empty.")
        kept = {name: row[name] for name in ("id", "question", "context") if row.get(name) is not None}
        if "answers" not in row:
            return kept
        answers, moved = [], []
        for text, start in spans_of(row["answers"], row.get("answer_start"), place):
            context = row["context"]
            if start is None or context[start : start + len(text)] != text:
                near = nearest_place(text, context, start or 0)
                if near is None:
                    raise DataError(f"{place}: the answer {text!r} isn't in the context"
                                    + (f" at {start}" if start is not None else "") + "; an answer is a part of it, "
                                    "letter for letter.")
                if start is not None:
                    moved.append(text)
                start = near
            answers.append({"text": text, "answer_start": start})
        if not answers and not self.version_2_with_negative:
            raise DataError(f"{place}: the question has no answer; where that is meant, say so by "
                            "task.version_2_with_negative: true.")
        return {**kept, "answers": answers, **({"moved": moved} if moved else {})}

    def together(self, row: Row) -> str:
        """Questions about one context are all learned from, or all held out."""
        return str(row["context"])

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """Question and context, and each answer at the place where it is now; None where one begins or ends in a word.

        [He] ran, 0  ->  [She] ran, 0
        """
        spans = list(swaps.spans(row["context"]))
        context, answers = swaps(row["context"]), []
        for answer in row.get("answers", ()):
            start = answer["answer_start"]
            first, stop = (moved(place, spans) for place in (start, start + len(answer["text"])))
            if first is None or stop is None:
                return None
            answers.append({"text": context[first:stop], "answer_start": first})
        found = {**row, "question": swaps(row["question"]), "context": context}
        return {**found, "answers": answers} if "answers" in row else found

    def texts(self, reader: Reader) -> Iterator[str]:
        """Questions, and each context once where it comes several times in turn."""
        before = ""
        for row, _ in self.read(reader):
            yield row["question"]
            if row["context"] != before:
                yield row["context"]
            before = row["context"]

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say into how many parts contexts were cut, and how many answers are too long to be predicted."""
        sets = super().prepare(train, validation, setup)
        notes = []
        for parts, what in ((sets.train, "training"), (sets.validation, "validation")):
            features = [one for part in parts if isinstance(part, Encoded) for one in part.features]
            examples = sum(len(part.rows) for part in parts if isinstance(part, Encoded))
            if len(features) > examples:
                notes.append(f"{what}: {len(features):,} parts of {examples:,} contexts, at most {setup.max_length} "
                             "tokens each")
            long = sum(int(one["end_positions"][0] - one["start_positions"][0]) >= self.max_answer_length
                       for one in features)
            if long:
                notes.append(f"{what}: can't be predicted: {many(long, 'answer')} of more than task.max_answer_length: "
                             f"{self.max_answer_length} tokens")
        return Sets(sets.train, sets.validation, [*sets.notes, *notes], sets.facts)

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The head tells starts from ends."""
        return {"num_labels": 2}

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """The question and a part of the context, as the tokenizer has pairs; only contexts are cut, into parts.

        [CLS] who sat ? [SEP] the cat sat . [SEP]
        starts            -1 …    0   4   8  11  -1      where tokens start in the context
        """
        if not rows:
            return []
        tokenizer = setup.tokenizer
        frame = frame_of(tokenizer, ends=setup.family.shape == "decoder")
        contexts = list(dict.fromkeys(row["context"] for row, _ in rows))
        if not tokenizer.is_fast:
            raise RequestError(f"question_answering: {type(tokenizer).__name__} doesn't tell where in a text its "
                               "tokens are; it needs a fast tokenizer.")
        whole = tokenizer(contexts, add_special_tokens=False, return_offsets_mapping=True)
        read = {context: (ids, offsets) for context, ids, offsets in zip(
            contexts, whole["input_ids"], whole["offset_mapping"], strict=True)}
        questions = tokenizer([row["question"].strip() for row, _ in rows], add_special_tokens=False)["input_ids"]
        typed = setup.family.shape != "decoder" and frame.types
        out: list[Features] = []
        for number, ((row, place), question) in enumerate(zip(rows, questions, strict=True)):
            ids, offsets = read[row["context"]]
            room = setup.max_length - len(question) - frame.size
            if room < min(len(ids), setup.max_length // 4, 32):
                raise DataError(f"{place}: the question has {len(question)} tokens, which leaves {max(0, room)} of "
                                f"data.max_length {setup.max_length} to the context.")
            if not ids:
                raise DataError(f"{place}: the context has no token.")
            for first in range(0, max(1, len(ids)), room - min(self.doc_stride, room // 2)):
                part, ends = ids[first : first + room], offsets[first : first + room]
                features, before = frame.around(question, part)
                after = len(features["input_ids"]) - before - len(part)
                places = {"starts": [-1] * before + [trimmed(row["context"], *one)[0] for one in ends] + [-1] * after,
                          "ends": [-1] * before + [trimmed(row["context"], *one)[1] for one in ends] + [-1] * after,
                          "null": [frame.null(features["input_ids"])], "of": [number],
                          "documents": [0] * len(features["input_ids"])}
                if not typed:
                    features.pop("token_type_ids", None)
                if "answers" in row:
                    start, end = self.target(row, places["starts"], places["ends"], places["null"][0])
                    places |= {"start_positions": [start], "end_positions": [end]}
                out.append({name: np.array(values, dtype=np.int64) for name, values in {**features, **places}.items()})
                if first + room >= len(ids):
                    break
        return out

    def target(self, row: Row, starts: list[int], ends: list[int], null: int) -> tuple[int, int]:
        """First and last token of the first answer in a part; the null position twice where it isn't whole in it."""
        if not row["answers"]:
            return null, null
        answer = row["answers"][0]
        left = answer["answer_start"]
        right = left + len(answer["text"].rstrip())
        left += len(answer["text"]) - len(answer["text"].lstrip())
        inside = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a >= 0 and a < right and b > left]
        if not inside or starts[inside[0]] > left or ends[inside[-1]] < right:
            return null, null
        return inside[0], inside[-1]

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded (rows, longest); what a row has once is (rows,)."""
        batch = stack(rows, {"input_ids": tokenizer.pad_token_id or 0, "starts": -1, "ends": -1})
        for name in ("start_positions", "end_positions", "null"):
            if name in batch:
                batch[name] = batch[name][:, 0]
        return batch

    # ---- loss and predictions ----

    def targets(self, batch: Batch) -> Sums:
        """One span a row."""
        import torch

        return {"loss": torch.tensor(len(batch["null"]), device=batch["null"].device)}

    def logits(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Tensor, Tensor]:
        """(rows, length) for starts and for ends; padding is nowhere that an answer could be."""
        outputs = family.outputs(model, {name: tensor for name, tensor in batch.items() if name not in EXTRA})
        start, end = outputs.start_logits.float(), outputs.end_logits.float()
        if "attention_mask" in batch:
            start, end = (some.masked_fill(batch["attention_mask"] == 0, FAR) for some in (start, end))
        return start, end

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """Where the answer starts and where it ends, (rows, 2, length), of which each counts for a half."""
        import torch

        return {"loss": Response(torch.stack(self.logits(model, batch, family), 1), weights=0.5)}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """The mean of two cross-entropies: where the answer starts, and where it ends."""
        start, end = answers["loss"].logits.unbind(1)
        return {"loss": span_loss(start, end, batch)}

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The best spans of each row and the score of none."""
        return self.best_spans(*self.logits(model, batch, family), batch)

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and the best spans."""
        start, end = self.logits(model, batch, family)
        return {"loss": span_loss(start, end, batch)}, self.best_spans(start, end, batch)

    def best_spans(self, start: Tensor, end: Tensor, batch: Batch) -> list[tuple[float, list[tuple[float, int, int]]]]:
        """For each row, the score of no answer, and (score, start, end) of the best spans in characters of the context.

        A span's score is the sum of its logits; all spans of at most `max_answer_length` tokens are compared.
        """
        import torch

        rows, length = start.shape
        context = batch["starts"] >= 0
        longest = min(self.max_answer_length, length)
        ends = torch.nn.functional.pad(end.masked_fill(~context, FAR), (0, longest - 1), value=FAR)
        sums = start.masked_fill(~context, FAR)[:, :, None] + ends.unfold(1, longest, 1)  # (rows, length, longest)
        best, places = sums.flatten(1).topk(min(self.n_best_size, length * longest))
        null = batch["null"][:, None]
        nothing = (start.gather(1, null) + end.gather(1, null))[:, 0].tolist()
        first = places // longest
        last = (first + places % longest).clamp_max(length - 1)
        left, right = batch["starts"].gather(1, first).tolist(), batch["ends"].gather(1, last).tolist()
        scored = best.tolist()
        return [(nothing[row], [(score, a, b) for score, a, b in zip(scored[row], left[row], right[row], strict=True)
                                if score > FAR / 2]) for row in range(rows)]

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The best span of all parts, where it is, and its probability among those that were compared."""
        found: dict[tuple[int, int], float] = {}
        for _, spans in outcomes:
            for score, start, end in spans:
                found[start, end] = max(score, found.get((start, end), -math.inf))
        best = sorted(found.items(), key=lambda one: (-one[1], one[0]))[: self.n_best_size]
        known = {"id": row["id"]} if "id" in row else {}
        nothing = min(null for null, _ in outcomes)  # an answer in one part is enough
        scored = [score for _, score in best] + ([nothing] if self.version_2_with_negative else [])
        total = sum(math.exp(score - max(scored)) for score in scored)
        (start, end), score = best[0]
        start += len(row["context"][start:end]) - len(row["context"][start:end].lstrip())  # a token may be a space
        gap = {"null_score_diff": nothing - score} if self.version_2_with_negative else {}
        if self.version_2_with_negative and nothing - score > self.null_score_diff_threshold:
            return {**known, "answer": "", "start": None, "end": None,
                    "score": math.exp(nothing - max(scored)) / total, **gap}
        return {**known, "answer": row["context"][start:end], "start": start, "end": end,
                "score": math.exp(score - max(scored)) / total, **gap}

    # ---- figures ----

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Exact match and F1, from 0 to 1; apart for questions with and without an answer where there are both."""
        return {**means, **measured([said["answer"] for said, _ in pairs], [row for _, row in pairs])}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """The sentence of the context that shares most words with the question, and no answer where some have none."""
        floors = {"most similar sentence": measured([closest(row["question"], row["context"]) for row in held], held)}
        if any(not row["answers"] for row in held):
            floors["no answer"] = measured([""] * len(held), held)
        return floors


def moved(place: int, spans: Sequence[tuple[int, int, str]]) -> int | None:
    """Where a place of a text is after spans of it were replaced; None where it is within one.

    >>> moved(4, [(0, 2, "she"), (6, 8, "x")]), moved(1, [(0, 2, "she")])
    (5, None)
    """
    further = 0
    for first, stop, new in spans:
        if first < place < stop:
            return None
        further += len(new) - (stop - first) if stop <= place else 0
    return place + further


def measured(answers: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
    """Exact match and F1 of answers to the questions of some rows."""
    return scores(answers, [[answer["text"] for answer in row["answers"]] for row in rows],
                  [row["question"] for row in rows])


def span_loss(start: Tensor, end: Tensor, batch: Batch) -> Tensor:
    """Half the sum over rows of both cross-entropies."""
    from torch.nn.functional import cross_entropy

    return (cross_entropy(start, batch["start_positions"], reduction="sum")
            + cross_entropy(end, batch["end_positions"], reduction="sum")) / 2


def spans_of(answers: Any, start: Any, place: Place) -> list[tuple[str, int | None]]:
    """(text, start) of each answer in any usual form; those that are empty are left out.

    {"text": ["a"], "answer_start": [3]}, [{"text": "a", "answer_start": 3}], ["a"], "a"  ->  [("a", 3)], [("a", None)]
    """
    if isinstance(answers, str) and start is None:
        answers = _written(answers)
    if isinstance(answers, Mapping) and isinstance(answers.get("text"), Sequence):
        texts, starts = answers["text"], answers.get("answer_start")
        if isinstance(texts, str):
            texts, starts = [texts], None if starts is None else [starts]
        if starts is not None and (not isinstance(starts, Sequence) or len(starts) != len(texts)):
            raise DataError(f"{place}: {len(texts)} answers, whose answer_start is {starts!r}.")
        answers = [{"text": text, "answer_start": where} for text, where in zip(texts, starts or [None] * len(texts),
                                                                               strict=True)]
    elif answers is None or isinstance(answers, str):
        answers = [{"text": answers or "", "answer_start": start}]
    if not isinstance(answers, Sequence):
        raise DataError(f"{place}: the answers are neither a text nor a list: {answers!r}.")
    found: list[tuple[str, int | None]] = []
    for one in answers:
        text, where = (one.get("text"), one.get("answer_start")) if isinstance(one, Mapping) else (one, None)
        if isinstance(where, str) and where.strip().lstrip("-").isdecimal() and len(where) <= 18:
            where = int(where)
        if not isinstance(text, str) or isinstance(where, bool) or not isinstance(where, int | None):
            raise DataError(f"{place}: an answer is {{text, answer_start}} or a text, not {one!r}.")
        if text.strip():
            found.append((text, where if where is None or where >= 0 else None))
    return found


def _written(answers: str) -> Any:
    """Responses that a table has as text, {'text': ['a'], 'answer_start': [3]}; any other text is the answer itself."""
    try:
        found = unwritten(answers)
    except ValueError:
        return answers
    usual = (isinstance(found, Mapping) and "text" in found) or (
        isinstance(found, list) and all(isinstance(one, str | Mapping) for one in found))
    return found if usual else answers


def nearest_place(text: str, context: str, start: int) -> int | None:
    """Where a text is in a context, as near as can be to where it should be."""
    found, at = [], context.find(text)
    while at >= 0:
        found.append(at)
        at = context.find(text, at + 1)
    return min(found, key=lambda place: (abs(place - start), place), default=None)


def trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """A token's place without the space that some tokenizers count to it."""
    while start < end - 1 and context[start].isspace():
        start += 1
    return start, end


def closest(question: str, context: str) -> str:
    """The sentence with most of the question's words; of equals, the shortest, then the first.

    >>> closest("Who sat on the mat?", "A dog ran. The cat sat on a mat. It slept.")
    'The cat sat on a mat.'
    """
    asked = set(segments(normalized(question)))
    lines = [one for line in context.splitlines() for one in sentences(line, "punctuation")]
    return min(lines, key=lambda one: (-len(asked & set(segments(normalized(one)))), len(one)), default="")
