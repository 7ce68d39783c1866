"""Tagging: one tag for each word; spans of tags are entities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.files import suffix_of
from llmkit.data.formats import format_of
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.data.swapping.pairs import Swaps
from llmkit.objectives.base import Responses, Sets, Setup, Sums
from llmkit.objectives.shared.places import at, chosen
from llmkit.recipe.registry import OPTIONS
from llmkit.system.devices import on_host
from llmkit.system.errors import DataError, RequestError, nearest
from llmkit.tasks.base import Encoded, Floors, Prediction, Row, Task, say
from llmkit.tasks.shared.lists import from_cell, unwritten
from llmkit.tasks.shared.tagged import conll, slashed
from llmkit.tasks.shared.tagged.conll import CELL, word_table
from llmkit.tasks.shared.tagged.spans import Spans, untagged
from llmkit.tasks.shared.tagged.tags import MARKS, OUTSIDE, entities, foreign, inside, parts, scheme_of, scores
from llmkit.tasks.shared.tagged.words import WORD, around, joined, subwords, swapped_words, windows

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

@dataclass(config=OPTIONS)
class Tagging(Task):
    """One tag a word: names and their kinds (BIO, IOB, BIOES, BILOU, BMES), or plain tags (parts of speech).

    Rows may have a text and spans of characters instead (`"label": [[0, 4, "PER"]]`), or be the words of sentences.
    """

    labels: list[str] | None = None
    """The tags, in the order of their numbers; those of the training rows where nothing is said."""
    scheme: Literal["auto", "plain", "IOB1", "IOB2", "IOE2", "BIOES", "BILOU", "BMES"] = "auto"
    """How tags mark entities; auto finds it from the tags."""
    label_all_tokens: bool = False
    """Learn the tag at every token of a word, not only at the one that it is read from."""
    stride: Annotated[int, Field(ge=0)] | None = 16
    """Tokens that two parts of a sentence too long for data.max_length share, at most half; null cuts it instead."""

    shapes = frozenset({"encoder", "decoder", "encoder-decoder", "permuted"})
    head = "AutoModelForTokenClassification"
    wanted = {
        "tokens": ("words", "text", "sentence", "characters"),
        "tags": ("ner_tags", "ner_tag", "tag", "pos_tags", "chunk_tags", "labels", "label", "ner", "pos"),
    }
    answers = ("tags",)
    tables = False
    example = (
        {"tokens": ["Ada", "Lovelace", "lived", "in", "London", "."],
         "tags": ["B-PERSON", "I-PERSON", "O", "O", "B-PLACE", "O"]},
        {"tokens": ["Paris", "is", "old", "."], "tags": ["B-PLACE", "O", "O", "O"]},
    )
    verb = "tag"
    unswapped = "a phrase in them would become one of more or fewer words, and each word has a tag"

    # ---- rows ----

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """Rows of a table, or the sentences of a text file.

        A text file has a word and its tag on each line, first and last of its columns, and a blank line between two
        sentences (`llmkit.tasks.shared.tagged.conll`). To be predicted, a .txt without tags in its first sentence is
        text, a sentence a line. Where tags stand behind a slash, a line is a sentence
        (`llmkit.tasks.shared.tagged.slashed`).
        """
        texts = [path for path in reader.files if format_of(path) == "text" and reader.source.target is None]
        if not texts:
            yield from self._named(reader, super().stream(reader, answered))
            return
        empty, before = True, len(reader.bad)
        for path in reader.files:
            one, aside = replace(reader, files=(path,)), replace(reader, bad={})
            if path not in texts:
                rows = self._named(one, super().stream(one, answered))
            elif slashed.is_slashed(path, aside):
                rows = map(_row, slashed.sentences(path, one, answered, reader.notes))
            elif not answered and suffix_of(path) in (".txt", "") and not conll.is_tagged(path, aside):
                rows = super().stream(replace(one, asked="line"), answered)
            else:
                rows = map(_row, conll.sentences(path, one, conll.look(path, aside), answered, reader.notes))
            for row in rows:
                empty = False
                yield row
        if empty and len(reader.bad) == before:
            raise DataError(f"{reader.name}: is empty.")

    def _named(self, reader: Reader, rows: Iterator[tuple[Row, Place]]) -> Iterator[tuple[Row, Place]]:
        """Rows whose tags are numbers get the names of these, from the recipe or from what the file says of itself."""
        names: Sequence[str] | None = None
        for row, place in rows:
            if any(isinstance(tag, int) for tag in row.get("tags", ())):
                if names is None:
                    names = self.labels or tag_names(reader)
                if names and not all(isinstance(tag, str) or 0 <= tag < len(names) for tag in row["tags"]):
                    reader.spare(DataError(
                        f"{place}: a tag is none of the {len(names)} that there are: {row['tags']}."))
                    continue
                row = {**row, "tags": [str(tag) if isinstance(tag, str) or not names else names[tag]
                                       for tag in row["tags"]]}
            yield row, place

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """A row a sentence: rows that are words are put together, and spans of characters become tags of words."""
        table = word_table(reader)
        if table is not None:
            yield from table.sentences(reader, answered)
            return
        spans = Spans()
        for row, place in reader.rows():
            try:
                found = spans.row(row, place, reader.source.fields) if answered else untagged(row)
            except DataError as error:
                reader.spare(error)
            else:
                yield found, place
        if note := spans.note(reader.name):
            say(reader, note)

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Words and tags are lists of one length, also written as text, or texts of words with spaces between them."""
        row = super().check(row, columns, place)
        for name in row:
            if isinstance(row[name], str):
                row[name] = _cut(row[name], str(columns[name]), "tags" in row, place)
            elif not isinstance(row[name], Sequence):
                raise DataError(f"{place}: the field {columns[name]!r} is no list: {row[name]!r}.")
        if not len(row["tokens"]):
            raise DataError(f"{place}: the field {columns['tokens']!r} is empty.")
        for number, word in enumerate(row["tokens"], 1):
            if not isinstance(word, str) or not CELL.search(word):
                raise DataError(f"{place}: word {number} is no word: {word!r}.")
        if "tags" not in row:
            return row
        if len(row["tags"]) != len(row["tokens"]):
            raise DataError(f"{place}: {len(row['tokens'])} words and {len(row['tags'])} tags.")
        for number, tag in enumerate(row["tags"], 1):
            if isinstance(tag, bool) or not isinstance(tag, str | int) or not str(tag).strip():
                raise DataError(f"{place}: the tag of word {number} is neither a word nor a whole number: {tag!r}.")
        return row

    def texts(self, reader: Reader) -> Iterator[str]:
        """The sentences."""
        return (joined(row["tokens"]) for row, _ in self.read(reader))

    def swapped(self, row: Row, swaps: Swaps) -> Row | None:
        """Word for word, so that each keeps its tag; None where a phrase would become one of more or fewer words."""
        words = swapped_words(row["tokens"], swaps)
        return None if words is None else {**row, "tokens": words}

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Also say which tags there are, and how they mark entities."""
        known = setup.labels or (None if self.labels is None else tuple(self.labels))
        if known is None:
            found = {tag for reader in train for row, _ in self.read(reader) for tag in row["tags"]}
            known = tuple(sorted(found, key=lambda tag: (tag != OUTSIDE, tag.partition("-")[2], tag)))
            if len(known) < 2:
                raise DataError(f"{train[0].label}: all words have the tag {known[0]!r}; there is nothing to tell "
                                "apart.")
            if len(known) > 1000:
                raise DataError(f"{train[0].label}: {len(known):,} different tags; is {known[-1]!r} a tag?")
        if (tag := foreign(known, self.scheme)) is not None:
            raise RequestError(f"task.scheme: {self.scheme} marks words by {', '.join(MARKS[self.scheme])}; there is a "
                               f"tag {tag!r}. auto finds the scheme from the tags.")
        sets = super().prepare(train, validation, replace(setup, labels=known))
        rows = [row["tags"] for part in sets.train if isinstance(part, Encoded) for row in part.rows]
        examples, windows = len(rows), sum(map(len, sets.train))
        scheme = self.scheme if self.scheme != "auto" else scheme_of(rows)
        notes = [f"{len(known)} tags ({scheme}): {', '.join(known)[:200]}"]
        marking = [tag for tag in known if parts(tag) is not None]
        if scheme == "plain" and self.scheme == "auto" and marking:
            rest = [tag for tag in known if tag not in marking and tag != OUTSIDE]
            notes.append(f"{len(marking)} of {len(known)} tags mark entities, as {marking[0]} does, and "
                         f"{', '.join(rest)[:100]} don't: all are taken as plain tags, and F1 is of words, not of "
                         "entities (task.scheme says otherwise)")
        if windows > examples:
            notes.append(f"sentences longer than {setup.max_length} tokens are learned in parts: {examples:,} "
                         f"sentences, {windows:,} rows")
        return Sets(sets.train, sets.validation, [*sets.notes, *notes], {**sets.facts, "labels": list(known)})

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The names of the tags go into the model's config."""
        labels = facts["labels"]
        return {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
                "label2id": {label: i for i, label in enumerate(labels)}}

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """The tokens of the words, with a label at the first of each: the last for a decoder, which reads on.

        the cat Garfield  ->  [CLS] the cat gar ##field [SEP]
        O   O   B-NAME         -100  O   O   B    -100   -100
        """
        numbers = {label: i for i, label in enumerate(setup.labels or ())}
        for row, place in rows:
            for word, tag in zip(row["tokens"], row.get("tags", ())):
                if tag not in numbers:
                    raise DataError(f"{place}: the tag {tag!r} of {word!r} is not among those of the training rows."
                                    f"{nearest(tag, numbers)}")
        pieces = subwords({word for row, _ in rows for word in row["tokens"]}, setup.tokenizer)
        before, after = around(setup.tokenizer)
        room = setup.max_length - len(before) - len(after)
        if room < 1:
            raise RequestError(f"data.max_length: {setup.max_length} leaves no room for a word.")
        read = -1 if setup.family.shape == "decoder" else 0
        out: list[Features] = []
        for number, (row, _) in enumerate(rows):
            ids = [pieces[word][:room] for word in row["tokens"]]
            sizes = list(map(len, ids))
            parts = windows(sizes, room, min(self.stride or 0, room // 2))
            lost = sum(len(pieces[word]) for word in row["tokens"]) - sum(sizes)
            if self.stride is None:
                lost += sum(sizes[parts[0].stop:])
                parts = [replace(parts[0], last=parts[0].stop)]
            if lost:
                cut.append(lost)
            for part in parts:
                tokens, labels, words = [*before], [-100] * len(before), [0] * len(before)
                for spot in range(part.start, part.stop):
                    own, some, marks = part.first <= spot < part.last, [-100] * sizes[spot], [0] * sizes[spot]
                    if own and "tags" in row:
                        tag = row["tags"][spot]
                        rest = tag if setup.family.shape == "decoder" else inside(tag, numbers)
                        some = [numbers[rest] if self.label_all_tokens else -100] * sizes[spot]
                        some[read] = numbers[tag]
                    marks[read] = int(own)
                    tokens, labels, words = tokens + ids[spot], labels + some, words + marks
                features = {"input_ids": [*tokens, *after], "words": [*words, *[0] * len(after)],
                            "documents": [0] * (len(tokens) + len(after)), "of": [number]}
                if "tags" in row:
                    features["labels"] = [*labels, *[-100] * len(after)]
                out.append({name: np.array(values, dtype=np.int64) for name, values in features.items()})
        return out

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Padded (rows, longest): inputs, labels, and where the tag of a word is read."""
        return stack(rows, {"input_ids": tokenizer.pad_token_id or 0, "labels": -100})

    # ---- loss and predictions ----

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """A tag for each labelled token."""
        return super().respond(model, {name: tensor for name, tensor in batch.items() if name != "words"}, family)

    def logits(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """(rows, length, tags)"""
        inputs = {name: tensor for name, tensor in batch.items() if name not in ("labels", "words")}
        logits: Tensor = family.outputs(model, inputs).logits.float()
        return logits

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The number of each word's likeliest tag, and its probability."""
        return likeliest(self.logits(model, batch, family), batch["words"])

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and each word's likeliest tag."""
        from torch.nn.functional import cross_entropy

        logits, labels = self.logits(model, batch, family), batch["labels"]
        wanted = chosen(labels)
        return ({"loss": cross_entropy(at(logits, wanted), at(labels, wanted), reduction="sum")},
                likeliest(logits, batch["words"]))

    def plain(self, prediction: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """The tags of all words."""
        return prediction["tags"], row["tags"]

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """A tag for each word, and the entities: their kind, text, first word and the one after the last.

        Words that were cut off get the tag O, or the first that there is.
        """
        labels = setup.labels or ()
        predicted = [word for outcome in outcomes for word in outcome]
        rest = OUTSIDE if OUTSIDE in labels else labels[0]
        tags = [labels[number] for number, _ in predicted] + [rest] * (len(row["tokens"]) - len(predicted))
        scheme = self.scheme if self.scheme != "auto" else scheme_of([labels])
        prediction = {"tokens": list(row["tokens"]), "tags": tags}
        if scheme != "plain":
            prediction["entities"] = [
                {"entity": kind, "text": joined(row["tokens"][start:stop]), "start": start, "end": stop,
                 "score": min(score for _, score in predicted[start:stop])}
                for kind, start, stop in entities(tags, scheme) if stop <= len(predicted)]
        return prediction

    # ---- figures ----

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Accuracy of words; of entities, precision, recall and F1: right are those whose kind and ends are."""
        predicted, true = [prediction["tags"] for prediction, _ in pairs], [list(row["tags"]) for _, row in pairs]
        return {**means, **scores(predicted, true, self.scheme)}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """The most frequent tag of each word in the training rows; of others, the most frequent tag of all."""
        seen: dict[str, Counter[str]] = {}
        for row in learned:
            for word, tag in zip(row["tokens"], row["tags"], strict=True):
                seen.setdefault(word, Counter())[tag] += 1
        true = [list(row["tags"]) for row in held]
        overall = Counter(tag for row in learned or held for tag in row["tags"]).most_common(1)[0][0]
        usual = {word: counts.most_common(1)[0][0] for word, counts in seen.items()}
        guesses = [[usual.get(word, overall) for word in row["tokens"]] for row in held]
        what = "most frequent tag of each word" if learned else "most frequent tag"
        return {what: scores(guesses, true, self.scheme)}


def tag_names(reader: Reader) -> list[str] | None:
    """The names of numbered tags, where a data set or a parquet file of `datasets` says them."""
    import json

    features: Any = None if reader.origin is None else reader.origin.features()
    if reader.files and reader.files[0].suffix == ".parquet":
        import pyarrow.parquet as pq

        about = (pq.read_schema(reader.files[0]).metadata or {}).get(b"huggingface")
        features = json.loads(about)["info"]["features"] if about else None
    for name in (reader.source.fields.get("tags"), "tags", *Tagging.wanted["tags"]):
        if features is not None and name in features:
            inner = features[name].get("feature", {})
            return list(inner["names"]) if isinstance(inner.get("names"), list) else None
    return None


def _row(found: conll.Sentence) -> tuple[Row, Place]:
    """The row of a sentence of a file."""
    return {"tokens": found.words, **({} if found.tags is None else {"tags": found.tags})}, found.place


def _cut(text: str, column: str, tagged: bool, place: Place) -> Any:
    """The words of a text: a list that a table has as text, words between spaces, or, of untagged text, as it is read.

    DataError where a list was cut short.
    """
    if tagged:
        several = from_cell(text, f"the field {column!r}", place)
        return several if isinstance(several, list) else CELL.findall(text)
    try:
        several = unwritten(text)
    except ValueError:
        several = None
    return several if isinstance(several, list) else WORD.findall(text)


def likeliest(logits: Tensor, words: Tensor) -> list[list[tuple[int, float]]]:
    """(tag, probability) of the best tag at each marked position of each row."""
    chances, numbers = (best.cpu() for best in logits.softmax(-1).max(-1))
    return [list(zip(number[mark].tolist(), chance[mark].tolist(), strict=True))
            for number, chance, mark in zip(numbers, chances, on_host(words) > 0, strict=True)]
