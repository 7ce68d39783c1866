"""Tasks whose answer is a text: a prompt is read, the answer is learned and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features
from llmkit.data.encoder import controls, encode_uncontrolled, text_of, uncontrolled, within
from llmkit.data.fields import find_fields
from llmkit.data.sources import Place, Reader
from llmkit.data.tokens import encode
from llmkit.models import ends
from llmkit.models.chatting import templates
from llmkit.models.ends import ends_of, unstopped
from llmkit.objectives.base import Judged, Responses, Setup, Sums, perplexity, token
from llmkit.recipe import Positive
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import DataError
from llmkit.system.finite import Watching
from llmkit.tasks.base import Encoded, Prediction, Row, Task, TooLongError
from llmkit.tasks.shared.rendering import Said

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Turn = tuple[list[int], list[int] | None, int]
"""What is asked; what is said to it, None where that is to be written; and the token that ends what is said."""


@dataclass(config=OPTIONS)
class Writing(Task):
    """A decoder goes on after the prompt; of an encoder-decoder, the encoder reads it and the decoder answers."""

    max_new_tokens: Positive = 128
    """Tokens that a written answer may have."""
    num_beams: Positive = 1
    """Responses that beam search follows at once; 1: the likeliest token each time."""
    length_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Of beam search: an answer's log-likelihood is divided by its length to this power; above 1 favours long ones."""
    label_smoothing_factor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of each target that is spread over all tokens while training (Szegedy et al. 2016, §7)."""

    reverse: bool = False
    """The other way round: what stands in the file as the answer is read, and what is asked is written."""

    shapes = frozenset({"decoder", "encoder-decoder"})
    head = "AutoModelForCausalLM"
    writes = True
    long: ClassVar[str | None] = None
    """The field that is cut where a prompt is too long for max_length; None: that is an error."""

    def head_for(self, family: type[Family]) -> str:
        """The language model's."""
        return "AutoModelForSeq2SeqLM" if family.shape == "encoder-decoder" else self.head

    def ask(self, row: Row, setup: Setup) -> str:
        """The prompt of an example as the model reads it, up to where its answer starts."""
        raise NotImplementedError

    def answer(self, row: Row) -> str:
        """What is to be written."""
        raise NotImplementedError

    def turns(self, row: Row, place: Place, setup: Setup) -> list[Said]:
        """What is asked, what is answered, and what a template writes after that; None for what is to be written."""
        return [(self.ask(row, setup), self.answer(row) if all(name in row for name in self.answers) else None, "")]

    def views(self, row: Row, place: Place, setup: Setup) -> list[list[Said]]:
        """The turns of a row; several times where its answers can't be learned from one text."""
        return [self.turns(row, place, setup)]

    def chats(self, setup: Setup) -> bool:
        """Whether it asks in the tokenizer's chat template."""
        return setup.tokenizer.chat_template is not None

    # ---- the other way round, and in a prompt ----

    def stream(self, reader: Reader, answered: bool = True) -> Iterator[tuple[Row, Place]]:
        """The rows of a source, turned round where the task is."""
        if not self.reverse:
            yield from super().stream(reader, answered)
            return
        if answered:
            for row, place in super().stream(reader):
                yield self.turned(row, place), place
            return
        (answer,), (asked, *_) = self.answers, self.wanted
        first, _ = next(iter(reader.rows()))  # what is to be read goes by the answer's name, or is all that there is
        names = {name: (*self.codes(name), *self.wanted[name]) for name in (answer, asked)}
        column = find_fields(list(first), {}, names, reader).get(answer)
        fields: dict[str, str | int] = {} if column is None else {asked: column}
        yield from super().stream(replace(reader, source=replace(reader.source, fields=fields)), answered=False)

    def codes(self, name: str) -> tuple[str, ...]:
        """Other names that a field's column may have in this run."""
        return ()

    def turned_round(self) -> Writing:
        """The task the other way round."""
        return replace(self, reverse=True)

    def limited(self, max_new_tokens: int) -> Writing:
        """The task with answers of at most so many tokens."""
        return replace(self, max_new_tokens=max_new_tokens)

    def turned(self, row: Row, place: Place) -> Row:
        """A row whose answer is asked with."""
        (answer,), (asked, *_) = self.answers, self.wanted
        return {**row, answer: row[asked], asked: row[answer]}

    def bare(self, setup: Setup) -> bool:
        """Whether a text is read without the words that the task itself would put around it."""
        return self.reverse or setup.prompt is not None

    def room(self, setup: Setup) -> int:
        """What a decoder keeps for the answer, and its chat template, are taken off."""
        if setup.family.shape == "encoder-decoder":
            return setup.max_length
        frame = len(encode(setup.tokenizer, [framed("", setup.tokenizer)])[0]) if self.chats(setup) else 0
        return setup.max_length - min(self.max_new_tokens, setup.max_length // 2) - frame

    def featured(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Rows as features; a chat template's own control tokens are none that is written in a text."""
        if setup.plain:
            known = controls(setup.tokenizer, template=True)
            rows = [(within(row, lambda text: uncontrolled(text, known)), place) for row, place in rows]
            setup = replace(setup, plain=False)
        return super().featured(rows, setup, cut)

    def encode(self, rows: Sequence[tuple[Row, Place]], setup: Setup, cut: list[int]) -> list[Features]:
        """Prompt and answer as one row for a decoder; as encoder input and decoder output for an encoder-decoder.

        [prompt] [answer] </s>  ->  labels at the answer and its end only; of several turns, at each answer and its end
        """
        tokenizer, what = setup.tokenizer, type(self).__name__.lower()
        end, most, reads = token(tokenizer, "eos", what), setup.max_length, setup.family.shape == "encoder-decoder"
        if reads:
            token(tokenizer, "pad", what)  # most decoders start from it
        begin = [int(tokenizer.bos_token_id or 0)] if self.begins(setup) and not reads else []
        out: list[Features] = []
        talks = self.talks(rows, setup)
        several = len(talks) > len(rows)
        for i, (number, talk) in enumerate(talks):
            row, place = rows[number]
            lost, (asked, said, _) = 0, talk[0]
            # a decoder leaves room for the answer, be there one or not: what is predicted from is what was learned from
            room = most - 1 if reads else most - len(begin) - min(self.max_new_tokens, most // 2)
            if self.long is not None and len(asked) > room:
                short = self.shortened(self.long, row, place, len(asked), room, setup)
                lost, talk = len(asked) - len(short), [(short, said, end)]
            if i and talks[i - 1][0] == number and said is not None and not reads and len(begin) + len(asked) > most:
                cut.append(len(said))  # an answer behind the end, as in a conversation that is cut
                continue
            features = (read_and_write(talk, setup.family.decoder_start(tokenizer), end, most, lost, cut) if reads
                        else go_on(talk, begin, most, place, lost, cut))
            out.append({**features, "of": np.array([number])} if several else features)
        return out

    def begins(self, setup: Setup) -> bool:
        """Whether a row of a decoder starts with the begin token: a chat template writes its own."""
        return not self.chats(setup) and begins(setup.tokenizer)

    def talks(self, rows: Sequence[tuple[Row, Place]], setup: Setup) -> list[tuple[int, list[Turn]]]:
        """The turns of each row as token ids, behind the row's number, which stands several times where `views` are so.

        An answer ends with the special token that the template writes after it, or with the end token where there is
        none; without a chat template, this also stands before the next turn.
        """
        tokenizer, end = setup.tokenizer, token(setup.tokenizer, "eos", type(self).__name__.lower())
        ends, chats = special(tokenizer), self.chats(setup)
        texts = [(i, talk) for i, (row, place) in enumerate(rows) for talk in self.views(row, place, setup)]
        ids = iter(encode_uncontrolled(
            tokenizer, [text for _, talk in texts for turn in talk for text in turn if text is not None]))
        out: list[tuple[int, list[Turn]]] = []
        for number, talk in texts:
            turns: list[Turn] = []
            for _, said, _ in talk:
                asked, answer, after = next(ids), None if said is None else next(ids), next(ids)[:1]
                closed = [end] if turns and not chats else []
                turns.append(([*closed, *asked], answer, after[0] if after and after[0] in ends else end))
            out.append((number, turns))
        return out

    def ends(self, setup: Setup) -> list[int]:
        """The tokens that it learns to end an answer with."""
        return [token(setup.tokenizer, "eos", type(self).__name__.lower())]

    def describe(self, folder: Path, setup: Setup) -> None:
        """What ends an answer ends what the model writes, whoever opens it."""
        ends.add(folder, self.ends(setup))

    def shortened(self, long: str, row: Row, place: Place, now: int, room: int, setup: Setup) -> list[int]:
        """The prompt of an example, of so much of its long text as leaves it `room` tokens."""
        edges = setup.tokenizer(row[long], add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        keep = len(edges) - (now - room)
        while keep > 0:
            asked_of = self.ask({**row, long: row[long][: edges[keep - 1][1]]}, setup)
            (asked,) = encode_uncontrolled(setup.tokenizer, [asked_of])
            if len(asked) <= room:
                return asked
            keep -= len(asked) - room
        raise DataError(f"{place}: the template leaves no room for the {long}: data.max_length is {setup.max_length}, "
                        f"of which a decoder keeps some for the answer (at most task.max_new_tokens).")

    # ---- loss ----

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """Cross-entropy of the answers, smoothed while training; an evaluation's loss is of the words themselves."""
        return {"loss": answers["loss"].guesses.loss(self.label_smoothing_factor if training else 0.0)}

    # ---- predictions ----

    def to_write(self, rows: int, last: bool) -> Sequence[int] | None:
        """No answer is written in an evaluation: that would take longer than training."""
        return ()

    def predict(self, model: nn.Module, batch: Batch, family: type[Family]) -> list[Any]:
        """The ids that the model writes after each prompt, without its end."""
        from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

        writer: Any = model
        config = writer.config.get_text_config()
        ends = ends_of(config.eos_token_id, writer.generation_config and writer.generation_config.eos_token_id)
        pad = config.pad_token_id if config.pad_token_id is not None else ends[0]
        asked, seen = prompts_of(batch, family, pad)
        limit = family.position_limit(config)
        room = self.max_new_tokens
        if limit is not None:
            taken = asked.shape[1] + virtual_tokens(model) if family.shape == "decoder" else 1
            room = min(room, limit - taken)
        if room < 1:
            return [[] for _ in asked]
        how: dict[str, Any] = {"length_penalty": self.length_penalty} if self.num_beams > 1 else {}
        watched: list[Any] = [Watching("writing")]
        penalty = writer.generation_config and writer.generation_config.repetition_penalty
        if family.shape == "decoder" and penalty and penalty != 1:
            # what is read may be said again: a summary or an answer takes its words from there
            only_written = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=asked.shape[1])
            how |= {"repetition_penalty": 1.0}
            watched.append(only_written)
        with unstopped(writer):
            written = writer.generate(
                input_ids=asked, attention_mask=seen, max_new_tokens=room, num_beams=self.num_beams, do_sample=False,
                pad_token_id=pad, eos_token_id=ends, use_cache=True, logits_processor=LogitsProcessorList(watched),
                **how)
        written = written[:, asked.shape[1]:] if family.shape == "decoder" else written[:, 1:]
        return [until(ids, {*ends, pad}) for ids in written.tolist()]

    def combine(self, outcomes: Sequence[Any], row: Row, setup: Setup) -> Prediction:
        """The text that was written."""
        (ids,) = outcomes
        # a chat template's end of a turn may be none of the ends that the model's config knows
        ids = until(ids, special(setup.tokenizer) - {setup.tokenizer.unk_token_id})
        return {"text": text_of(setup.tokenizer, ids).strip()}

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """The metrics of what was written; one row an example."""
        rows = [part.rows[owner] for part in sets if isinstance(part, Encoded) for owner in part.owners]
        outcomes = {row: one for some, said in judged for row, one in zip(some, said, strict=True)}
        pairs = [(self.combine([outcomes[i]], rows[i], setup), rows[i]) for i in sorted(outcomes)]
        return self.measured(means, pairs, setup)

    def plain(self, prediction: Prediction, row: Row, setup: Setup) -> tuple[Any, Any]:
        """What was written, and what was to be written."""
        return prediction["text"], self.answer(row)

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Prediction, Row]]) -> dict[str, float]:
        """The perplexity of the answers, and how good what was written is."""
        figures = {**means, "perplexity": perplexity(means["loss"])}
        if not pairs:
            return figures
        return {**figures, **self.scores([prediction["text"] for prediction, _ in pairs], [row for _, row in pairs])}

    def scores(self, written: Sequence[str], rows: Sequence[Row]) -> dict[str, float]:
        """Figures of texts beside the examples that they are written for."""
        return {}


def spread(rows: int, most: int | None) -> Sequence[int]:
    """At most so many of the rows, evenly from first to last: 10, 4 -> 0 2 5 7."""
    return range(rows) if most is None or most >= rows else [i * rows // most for i in range(most)]


def framed(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """A text as what the user says, in the tokenizer's chat template."""
    turns = [{"role": "user", "content": uncontrolled(text, controls(tokenizer, template=True))}]
    return str(templates.apply(tokenizer, turns, tokenize=False, add_generation_prompt=True))


def go_on(
    talk: Sequence[Turn], begin: list[int], most: int, place: Place, lost: int, cut: list[int],
) -> Features:
    """A decoder's row: what is asked, which isn't learned, then what is said and its end, and so on; cut at its end."""
    ids: list[int] = []
    labels: list[int] = []  # of each token, what comes after it
    for i, (asked, said, end) in enumerate(talk):
        ids += asked if i else [*begin, *asked]
        labels += [-100] * (len(ids) - len(labels))
        if len(ids) > most and (i == 0 or said is None):
            kind = DataError if said is None else TooLongError
            raise kind(f"{place}: the prompt alone has {len(ids)} tokens; data.max_length is {most}.")
        if said is not None:
            labels[-1:] = [*said, end] if ids else [*said[1:], end]  # where nothing is asked, the first word is given
            ids += said
    if talk[-1][1] is None:
        features: Features = {"input_ids": np.array(ids)}
    else:
        if len(ids) > most:
            kept = 1 + max(i for i, label in enumerate(labels[:most]) if label != -100)
            lost += len(ids) - kept
            ids, labels = ids[:kept], labels[:kept]
        features = {"input_ids": np.array(ids), "labels": np.array(labels)}
    if lost:
        cut.append(lost)
    features["documents"] = np.zeros_like(features["input_ids"])
    return features


def read_and_write(
    talk: Sequence[Turn], start: int, end: int, most: int, lost: int, cut: list[int],
) -> Features:
    """An encoder-decoder's row: all that comes before the last answer for the encoder, that for the decoder."""
    before, answer = [ids for asked, said, _ in talk[:-1] for ids in (*asked, *(said or ()))], talk[-1][1]
    read = [*before, *talk[-1][0], end]
    said = None if answer is None else [*answer, end]
    lost += max(0, len(read) - most) + max(0, len(said or ()) - most)
    if lost:
        cut.append(lost)
    if len(read) > most:
        read = [*read[: most - 1], end]
    features: Features = {"input_ids": np.array(read)}
    if said is not None:
        labels = np.array(said[:most])
        features |= {"labels": labels, "decoder_input_ids": np.concatenate([[start], labels[:-1]]),
                     "decoder_documents": np.zeros(len(labels), dtype=np.int64)}
    features["documents"] = np.zeros(len(read), dtype=np.int64)
    return features


def prompts_of(batch: Batch, family: type[Family], pad: int) -> tuple[Tensor, Tensor]:
    """What each row asks, and where it isn't padding: padded on the left for a decoder, on the right for an encoder."""
    import torch

    ids = batch["input_ids"]
    seen = batch.get("attention_mask", torch.ones_like(ids))
    if family.shape == "encoder-decoder":
        return ids, seen
    lengths = seen.sum(1)
    if "labels" in batch:  # the last token of the prompt has the first label
        learned = batch["labels"] != -100
        lengths = torch.where(learned.any(1), learned.long().argmax(1) + 1, lengths)
    longest = int(lengths.max())
    back = torch.arange(longest, device=ids.device)[None] - (longest - lengths)[:, None]
    asked = ids.gather(1, back.clamp_min(0))
    return torch.where(back >= 0, asked, pad), (back >= 0).long()


def virtual_tokens(model: nn.Module) -> int:
    """How many positions an adapter takes before each text: one of peft's, or a prefix or prompt of llmkit's own."""
    from peft import PeftModel, PromptLearningConfig

    for own in ("llmkit_prefix", "soft_prompt"):
        if (adapter := getattr(model, own, None)) is not None:
            return int(adapter.tokens)
    configs = model.peft_config.values() if isinstance(model, PeftModel) else ()
    return sum(int(config.num_virtual_tokens) for config in configs if isinstance(config, PromptLearningConfig))


def special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Tokens that stand for no text: the tokenizer's own, and those that were added as such."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(number for number, one in added if one.special)}


def until(ids: list[int], ends: set[int]) -> list[int]:
    """Ids up to the first that ends a text."""
    return next((ids[:i] for i, number in enumerate(ids) if number in ends), ids)


def begins(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer itself puts a begin token before a text."""
    if tokenizer.bos_token_id is None:
        return False
    return bool(tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id)
