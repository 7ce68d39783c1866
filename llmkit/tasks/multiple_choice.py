"""Multiple choice: which of several texts answers a question, or goes on from a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features, stack
from llmkit.data.fields import find_fields, no_text
from llmkit.data.formats.base import Rows
from llmkit.data.sources import Place, Reader
from llmkit.objectives.base import Response, Responses, Setup, Sums
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.tasks.base import Floors, Prediction, Row, Task, say, say_guessed
from llmkit.tasks.shared.figures import FLOOR_ROWS, words_of
from llmkit.tasks.shared.forms.distractors import apart
from llmkit.tasks.shared.lists import from_cell

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUMBERED = re.compile(r"(?:(choice|option|ending|answer|alternative|sol|opt|distractor)[ _-]?)?(?:([0-9])|[a-h])", re.I)
"""A column with one of the choices: ending0, choice_2, sol1, B."""

KEY = 3
"""Characters that the name of a choice has at most, where an object holds them by their names."""
TEXTS, KEYS = ("text", "content", "value", "choice", "option"), ("label", "key", "id", "letter", "name")
"""Where a choice that is an object has its text, and what it goes by."""


@dataclass(config=OPTIONS)
class MultipleChoice(Task):
    """Every choice is read with its question, and the choices of a question compete: one is right."""

    answer: Literal["auto", "number", "letter", "text"] = "auto"
    """How rows say which choice is right; auto: by whichever of the three fits, which has to be one."""
    first: Literal[0, 1] = 0
    """The number of the first choice."""
    separator: Annotated[str, Field(min_length=1)] | None = None
    """What stands between choices in one string, as in a table; a list needs none, nor do columns like ending0."""

    shapes = frozenset({"encoder"})
    head = "AutoModelForMultipleChoice"
    wanted = {
        "question": ("prompt", "text", "premise", "sent1", "query", "stem", "goal", "ctx", "sentence"),
        "choices": ("options", "endings", "candidates", "alternatives", "choice"),
        "answer": ("label", "answerKey", "answer_idx", "correct", "gold", "target"),
    }
    answers = ("answer",)
    example = (
        {"question": "What says moo?", "choices": ["a cat", "a cow"], "answer": 1},
        {"question": "What can fly?", "choices": ["a bird", "a stone", "a tree"], "answer": 0},
    )
    optional = {"context": ("passage", "article", "story", "premise", "dialogue", "support", "fact1", "content")}

    # ---- rows ----

    def unfolded(self, reader: Reader, answered: bool) -> Rows:
        """Rows with what a question holds beside it (CommonsenseQA): {"question": {"stem": …, "choices": […]}}.

        Where the right answer has a column of its own, it is put among the wrong ones.
        """
        for row, place in reader.rows():
            row, fields = flat(row), reader.source.fields
            if not {"choices", "answer"} & fields.keys() and not {"choices", *self.wanted["choices"]} & row.keys():
                known = apart(list(row))
                if known is not None:
                    try:
                        row = known.row(row, place, self.first, self.answer)
                    except DataError as error:
                        reader.spare(error)
                        continue
                    say(reader, f"{reader.name}: {known.note()}")
            yield row, place

    def columns(self, row: Mapping[Any, Any], reader: Reader, answered: bool = True) -> dict[str, str | int]:
        """Choices are one column, or several that are numbered."""
        names = series(list(row))
        if "choices" in reader.source.fields or {"choices", *self.wanted["choices"]} & set(row) or len(names) < 2:
            names = []
        wanted = {name: others for name, others in self.wanted.items()
                  if not (name == "choices" and names) and (answered or name != "answer")}
        optional = dict(self.optional)
        if {"sent1", "sent2"} <= row.keys():  # SWAG: the choices go on from sent2, which follows sent1
            wanted["question"], optional["context"] = ("sent2", *wanted["question"]), ("sent1", *optional["context"])
        columns = find_fields([name for name in row if name not in names], wanted, optional, reader)
        columns |= {f"choice {i}": name for i, name in enumerate(sorted(names, key=str))}
        say_guessed(columns, reader)
        return columns

    def check(self, row: Row, columns: Mapping[str, str | int], place: Place) -> Row:
        """Texts are texts, there are two choices or more, and one of them is right: its number counts from 0."""
        several = [row[name] for name in row if name.startswith("choice ")]
        if several:  # a row may have fewer than the table has columns
            several = [one for one in several if one is not None and not (isinstance(one, str) and not one.strip())]
            row = {name: value for name, value in row.items() if not name.startswith("choice ")} | {"choices": several}
            columns = {**columns, "choices": "choices"}
        if columns.get("question") == "sent2" and not str(row["question"] or "").strip():
            row = {**row, "question": row.get("context"), "context": None}
        row = super().check(row, columns, place)
        if not str(row.get("context") or "").strip():
            row.pop("context", None)
        for name in ("question", "context"):
            if name in row and not isinstance(row[name], str):
                raise no_text(name, columns[name], row[name], place)
        held = row["choices"] if self.separator else from_cell(
            row["choices"], f"the field {columns['choices']!r}", place, bare=True)
        choices, keys = listed(held, self.separator)
        if len(choices) < 2:
            raise DataError(f"{place}: {len(choices)} choices; there must be two or more: a list, columns like choice0 "
                            "and choice1, or one string with task.separator.")
        for one in choices:
            if not isinstance(one, str) or not one.strip():
                raise DataError(f"{place}: a choice is no text: {one!r}.")
        if "answer" not in row:
            return {**row, "choices": choices}
        choices = [one.strip() for one in choices]
        return {**row, "choices": choices, "answer": self.right(row["answer"], choices, keys, place)}

    def right(self, answer: Any, choices: Sequence[str], keys: Sequence[str], place: Place) -> int:
        """Which choice is meant by a number, a letter or its text."""
        readings = {"number": numbered(answer, self.first, len(choices)),
                    "letter": lettered(answer, keys, len(choices)),
                    "text": [i for i, one in enumerate(choices) if isinstance(answer, str) and one == answer.strip()]}
        if self.answer != "auto":
            readings = {self.answer: readings[self.answer]}
        elif keys and len(readings["letter"]) == 1:  # the row itself says what its choices are called: ARC's 1 to 4
            return readings["letter"][0]
        meant = sorted({i for some in readings.values() for i in some})
        if len(meant) > 1:
            how = " or ".join(name for name, some in readings.items() if some)
            raise DataError(f"{place}: the answer {answer!r} may be choice {' or '.join(map(str, meant))}, counted "
                            f"from 0, as a {how}" + ("; say task.answer." if self.answer == "auto" else "."))
        if not meant:
            last = len(choices) - 1 + self.first
            other = "; if the first is 1, say task.first: 1" if numbered(answer, 1, len(choices)) else ""
            raise DataError(f"{place}: the answer {answer!r} is none of the {len(choices)} choices: a number from "
                            f"{self.first} to {last}, a letter from A to {LETTERS[:len(choices)][-1]}, or "
                            f"the text of one{other}.")
        return meant[0]

    def texts(self, reader: Reader) -> Any:
        """What a tokenizer is trained on: questions, contexts and choices."""
        for row, _ in self.read(reader):
            yield from (row[name] for name in ("context", "question") if name in row)
            yield from row["choices"]

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Every choice as a pair with its question, one after the other; `sizes` says how long each is.

        With a context, that is the first text, and the second is question and choice (Radford et al. 2018).

        who ran? | a dog, a hat  ->  [CLS] who ran? [SEP] a dog [SEP] [CLS] who ran? [SEP] a hat [SEP]
        """
        if not rows:
            return []
        pairs = [pair for row, _ in rows for pair in self.pairs(row)]
        whole = setup.tokenizer([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        for i, ids in enumerate(whole["input_ids"]):
            if len(ids) > setup.max_length:
                cut.append(len(ids) - setup.max_length)
                short = self.shortened(*pairs[i], setup)
                for name in whole:
                    whole[name][i] = short[name]
        names = [name for name in ("input_ids", "token_type_ids") if name in whole]
        out: list[Features] = []
        start = 0
        for row, _ in rows:
            stop = start + len(row["choices"])
            features = {name: np.concatenate([np.array(ids, dtype=np.int64) for ids in whole[name][start:stop]])
                        for name in names}
            features["sizes"] = np.array([len(ids) for ids in whole["input_ids"][start:stop]])
            features["documents"] = np.zeros_like(features["input_ids"])
            if "answer" in row:
                features["labels"] = np.array([row["answer"]])
            out.append(features)
            start = stop
        return out

    def pairs(self, row: Row) -> list[tuple[str, str]]:
        """The two texts of each choice: the question and itself; of one with a context, that, and both behind it."""
        before, head = (row["context"], f"{row['question']} ") if "context" in row else (row["question"], "")
        return [(before, f"{head}{one}") for one in row["choices"]]

    def shortened(self, first: str, second: str, setup: Setup) -> Any:
        """A pair that is too long: the end of the first text goes, and of both where the choice alone is too long."""
        tokenizer, most = setup.tokenizer, setup.max_length
        alone = len(tokenizer("", second)["input_ids"])
        way = "only_first" if alone < most else "longest_first"
        return tokenizer(first, second, truncation=way, max_length=most)

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """All choices of all rows one below the other, (choices, longest), and how many each row has.

        Rows with fewer choices than others need no padding: only choices that are there are computed.
        """
        import torch

        names = [name for name in ("input_ids", "token_type_ids", "documents") if name in rows[0]]
        parts = [dict(zip(names, split)) for row in rows
                 for split in zip(*(np.split(row[name], row["sizes"].cumsum()[:-1]) for name in names), strict=True)]
        batch = stack(parts, {"input_ids": tokenizer.pad_token_id or 0})
        batch["choices"] = torch.tensor([len(row["sizes"]) for row in rows])
        if "labels" in rows[0]:
            batch["labels"] = torch.from_numpy(np.concatenate([row["labels"] for row in rows]))
        return batch

    # ---- loss and predictions ----

    def targets(self, batch: Batch) -> Sums:
        """One prediction a row."""
        import torch

        return {"loss": torch.tensor(len(batch["choices"]), device=batch["choices"].device)}

    def logits(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """(rows, most choices); what a row doesn't have is -inf."""
        import torch

        counts = batch["choices"]
        inputs = {name: tensor[:, None] for name, tensor in batch.items() if name not in ("choices", "labels")}
        each = family.outputs(model, inputs).logits[:, 0].float()
        there = torch.arange(int(counts.max()), device=counts.device)[None] < counts[:, None]
        return torch.full(there.shape, float("-inf"), device=each.device).masked_scatter(there, each)

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """The choices of each row."""
        return {"loss": Response(self.logits(model, batch, family))}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """Cross-entropy of the right choice among those of its row."""
        from torch.nn.functional import cross_entropy

        return {"loss": cross_entropy(answers["loss"].logits, batch["labels"], reduction="sum")}

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The probability of each choice; 0 for those that a row doesn't have."""
        return self.logits(model, batch, family).softmax(-1).tolist()

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[Any]]:
        """The loss, and the probability of each choice."""
        from torch.nn.functional import cross_entropy

        logits = self.logits(model, batch, family)
        return {"loss": cross_entropy(logits, batch["labels"], reduction="sum")}, logits.softmax(-1).tolist()

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The likeliest choice: its number, its text and its probability."""
        (chances,) = outcomes
        best = int(np.argmax(chances[: len(row["choices"])]))
        return {"answer": best + self.first, "text": row["choices"][best], "score": chances[best]}

    def plain(self, prediction: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """Numbers of choices, from 0."""
        return prediction["answer"] - self.first, row["answer"]

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """Accuracy."""
        return {**means, "accuracy": float(np.mean([prediction["answer"] - self.first == row["answer"]
                                                    for prediction, row in pairs]))}

    def floors(self, learned: Sequence[Row], held: Sequence[Row]) -> Floors:
        """A guess, the longest choice, and the one that has most of the question's words, rare ones counting more."""
        right = [row["answer"] for row in held]
        asked = [f"{row.get('context', '')} {row['question']}" for row in held]
        words = words_of([*asked, *(one for row in (*held, *learned[:FLOOR_ROWS]) for one in row["choices"])])
        longest = [max(range(len(row["choices"])), key=lambda i: len(row["choices"][i])) for row in held]
        floors = {"a guess": {"accuracy": float(np.mean([1 / len(row["choices"]) for row in held]))},
                  "the longest choice": {"accuracy": float(np.mean(np.equal(longest, right)))}}
        if words is not None:
            near = [int(np.asarray((words.transform([text]) @ words.transform(row["choices"]).T).todense()).argmax())
                    for text, row in zip(asked, held)]
            floors["TF-IDF, cosine"] = {"accuracy": float(np.mean(np.equal(near, right)))}
        return floors


def series(columns: Sequence[Any]) -> list[Any]:
    """The columns that have a choice each, called alike: the unnamed first one that pandas writes is none of them.

    ["0", "sent1", "ending0", "ending1"]  ->  ["ending0", "ending1"]
    """
    kinds: dict[tuple[str, bool], list[Any]] = {}
    for column in columns:
        if found := NUMBERED.fullmatch(str(column).strip()):
            kinds.setdefault(((found[1] or "").casefold(), found[2] is None), []).append(column)
    return max(kinds.values(), key=len, default=[])


def flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """{"question": {"stem": "Who?", "choices": […]}, …}  ->  {"question": "Who?", "choices": […], …}"""
    name = next((name for name in ("question", "Question") if isinstance(row.get(name), Mapping)), None)
    if name is None:
        return dict(row)
    inner = {("question" if key in ("stem", "text", "question") else key): value for key, value in row[name].items()}
    return {**inner, **{key: value for key, value in row.items() if key != name}}


def listed(value: Any, separator: str | None) -> tuple[list[Any], list[str]]:
    """Choices, and the names that they go by where they have some.

    {"text": ["a", "b"], "label": ["A", "B"]} (ARC)    [{"label": "A", "text": "a"}, …] (CommonsenseQA)
    {"A": "a", "B": "b"} (MedQA)
    """
    if isinstance(value, Mapping) and isinstance(value.get("text"), Sequence):
        return list(value["text"]), [str(key) for key in value.get("label", ())]
    if isinstance(value, Mapping) and value and all(len(str(key)) <= KEY for key in value):
        return list(value.values()), [str(key).strip() for key in value]
    if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
        texts = [next((one[name] for name in TEXTS if name in one), one) for one in value]
        keys = [next((str(one[name]).strip() for name in KEYS if name in one), "") for one in value]
        return texts, keys if all(keys) else []
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator)] if separator else [value], []
    return (list(value), []) if isinstance(value, list | tuple) else ([value], [])


def numbered(answer: Any, first: int, count: int) -> list[int]:
    """The choice of a number, be it written as a string; none where there isn't one."""
    if isinstance(answer, str) and re.fullmatch(r" *\d{1,18} *", answer):
        answer = int(answer)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if isinstance(answer, bool) or not isinstance(answer, int):
        return []
    return [answer - first] if 0 <= answer - first < count else []


def lettered(answer: Any, keys: Sequence[str], count: int) -> list[int]:
    """The choice of a letter, or of the name that the row's own list gives it."""
    if not isinstance(answer, str):
        return []
    if keys:
        return [i for i, key in enumerate(keys) if key == answer.strip()]
    letter = answer.strip().upper()
    place = LETTERS[:count].find(letter) if len(letter) == 1 else -1
    return [place] if place >= 0 else []
