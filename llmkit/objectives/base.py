"""The contract of an objective: how documents become rows, a batch, and a loss."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, TypeAlias, cast

import numpy as np

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Examples, Features, stack
from llmkit.data.rows import Layout, SegmentRows, Sharded, arrange
from llmkit.data.sources import Reader
from llmkit.data.swapping.doubling import doubled_documents
from llmkit.data.tokens import Ids, entropy, tokenize, total
from llmkit.objectives.shared.held_out import held_out
from llmkit.objectives.shared.places import at, chosen
from llmkit.objectives.shared.vocabulary import Vocabulary as Vocabulary
from llmkit.objectives.shared.vocabulary import vocabulary as vocabulary
from llmkit.recipe.promises import LEARNING
from llmkit.recipe.watching import lacking, required, watch
from llmkit.system.errors import DataError, RequestError
from llmkit.system.plural import many

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from llmkit.backbones.kernels.chunked_loss import Guesses

Sums: TypeAlias = "dict[str, Tensor]"
"""By the name of a head: a loss summed over its targets."""
Responses: TypeAlias = "dict[str, Response]"
"""By the name of a head: what a model says at its targets."""
Samples: TypeAlias = "list[dict[str, Any]]"
"""What there is to see of some rows, a dict each."""
Judged: TypeAlias = "tuple[list[int], list[Any]]"
"""The numbers of a batch's rows, and what `judge` gave for them."""


@dataclass(frozen=True)
class Response:
    """What a model says at some targets, and how it is meant."""

    said: Guesses | Tensor
    """Of each target: the words' logits, or logits (targets, …, choices)."""
    kind: Literal["one", "each", "number"] = "one"
    """one: one choice is right (softmax); each: any of them may be (sigmoid); number: no logits, but numbers."""
    weights: Tensor | float = 1.0
    """What each target counts for; of several dimensions, what each of a target's parts does."""

    @property
    def guesses(self) -> Guesses:
        """What is said of words."""
        return cast("Guesses", self.said)

    @property
    def logits(self) -> Tensor:
        """What is said of choices."""
        return cast("Tensor", self.said)


class Prompted(Protocol):
    """Puts a text into its prompt."""

    def __call__(self, row: Mapping[str, str]) -> str:
        """{"text": …} to one text."""

    def notes(self) -> list[str]:
        """What was left out on the way, in words."""


@dataclass(frozen=True)
class Setup:
    """What an objective is given to make its rows from."""

    tokenizer: PreTrainedTokenizerBase
    family: type[Family]
    max_length: int
    packing: str
    seed: int
    labels: tuple[str, ...] | None = None
    """The labels that a trained model knows; None where the training rows say which there are."""
    problem: str | None = None
    """What its answers are, in transformers' words (`problem_type` of its config); None likewise."""
    metrics: tuple[str, ...] = ()
    """Metrics of the evaluate library that are wanted beside the task's own."""
    prompt: Prompted | None = None
    """What every text that a task reads is put into; None where it is read as it is."""
    shots: int | None = None
    """Training rows a label that a task learns from; None: all."""
    plain: bool = False
    """Whether control tokens that are written in a text are text (data.control_tokens: split)."""


@dataclass(frozen=True)
class Sets:
    """The rows of a run."""

    train: Sequence[Examples]
    validation: Sequence[Examples]
    notes: Sequence[str] = ()
    """What the user should know: what was cut, how full the rows are."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Figures for the summary: the entropy of the unigram distribution …"""


class Objective:
    """What a model learns from text; its dataclass fields are its options in the recipe."""

    shapes: ClassVar[frozenset[str]] = required("the backbone shapes that it fits: frozenset({'encoder'})")
    """Backbone shapes that it fits."""
    head: ClassVar[str] = required("the transformers auto class that carries its head: 'AutoModelForCausalLM'")
    """The transformers auto class that carries its head."""
    packings: ClassVar[tuple[str, ...]] = ("documents", "blocks", "none")
    """Ways of filling rows that it can do, the best first."""
    heads: ClassVar[tuple[str, ...]] = ("loss",)
    """Names of its losses; each is divided by its own count."""
    adapters: ClassVar[bool] = True
    """Whether tuning methods other than full make sense."""
    idle: ClassVar[bool] = False
    """Whether some trained weights may have no part in a step's loss: an unused head, a network that waits its turn."""
    masks: ClassVar[bool] = False
    """Whether its rows come with attention masks of their own."""
    metric: ClassVar[str] = "loss"
    """The figure of an evaluation that says most."""
    best: ClassVar[str | None] = None
    """The metric whose best model is kept where the recipe names none; None keeps the last."""
    looked_at: ClassVar[int] = 4
    """Rows that are looked at in an evaluation, see `show`."""
    goes_on: ClassVar[bool] = False
    """Whether a model that learned it goes on with any text, so that it can be told in words to do something else."""

    def __init_subclass__(cls) -> None:
        """People's own are looked at as they are called, tasks too."""
        super().__init_subclass__()
        watch(cls, LEARNING)

    @property
    def whole(self) -> bool:
        """Whether a row's loss depends on every row of the step: then `represent` and `compare` make the loss."""
        return False

    @property
    def weights(self) -> dict[str, float]:
        """What each head's mean counts for in the sum that is minimised."""
        return dict.fromkeys(self.heads, 1.0)

    def head_for(self, family: type[Family]) -> str:
        """The auto class for a family, "" where it has none; objectives that fit several shapes choose here."""
        return self.head

    def missing(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Special tokens that it needs and the tokenizer lacks, as `add_special_tokens` takes them."""
        return {}

    def worded(self, wish: str) -> str | None:
        """A wish, "Summarize: {text}", in the words that a model which learned it is asked by; None: any will do."""
        return None

    # ---- more than one network ----

    def assemble(
        self, model: nn.Module, family: type[Family], tokenizer: PreTrainedTokenizerBase, folder: Path | None,
    ) -> nn.Module:
        """What trains: the model, or a module of it and the networks that learn beside it.

        `folder` is a finished run's, where the other networks are opened again; None makes them new.
        """
        return model

    def kept(self, assembled: nn.Module) -> nn.Module:
        """The model that a run leaves in model/."""
        return assembled

    def others(self, assembled: nn.Module) -> dict[str, nn.Module]:
        """Networks that a run leaves beside it, by the name of their folder."""
        return {}

    def describe(self, folder: Path, setup: Setup) -> None:
        """Add to the saved model what other tools need to use it: how an embedding is pooled, how one asks …"""

    def turn(self, step: int) -> str | None:
        """Which part of the assembled module learns in a step, by the start of its parameters' names; None: all of it.

        Where there are turns, each training batch has the number of its `step`: loss and targets follow from it.
        """
        return None

    def pace(self, step: int) -> float:
        """What the learning rate is multiplied by in a step."""
        return 1.0

    def verdict(self, evaluations: Sequence[Mapping[str, float]]) -> str | None:
        """Why the run should end after these evaluations (a generator that collapsed), or None."""
        return None

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Fields that the model's config needs for this head, from what `prepare` found: the labels …"""
        return {}

    # ---- rows ----

    def suited(self, train: Sequence[Reader]) -> Self:
        """With a value for what it left to the text: who finds its words …"""
        return self

    def texts(self, reader: Reader) -> Iterator[str]:
        """What a tokenizer is trained on: all text of a source."""
        return (text for text, _ in reader.documents())

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Read, tokenize, hold out and lay out; by default, documents of text."""
        layout = self.layout(setup.tokenizer, setup.max_length, setup.packing)
        learned = [tokenize(reader, setup.tokenizer, setup.plain) for reader in train]
        if isinstance(validation, float):
            learned, held = held_out(learned, validation, setup.seed)
        else:
            held = [tokenize(reader, setup.tokenizer, setup.plain) for reader in validation or []]
        learned, said, facts = doubled_documents(learned, held, train, setup.seed)
        tokens = total(learned, "data.train")
        held_tokens = total(held, "data.validation") if held else 0
        sets = [[Text(self, arrange(documents, layout, setup.packing), setup) for documents in part]
                for part in (learned, held)]
        for part, what in zip(sets, ("data.train", "data.validation"), strict=True):
            if part and not sum(len(text) for text in part):
                raise DataError(f"{what}: no document is long enough for {setup.packing!r} rows of {setup.max_length}.")
        notes = [f"{many(tokens, 'token')} to train on in {many(sum(map(len, sets[0])), 'row')}"
                 + (f", {held_tokens:,} held out in {sum(map(len, sets[1])):,}" if held else "")]
        return Sets(sets[0], sets[1], [*notes, *said], {"unigram_entropy": entropy(learned), **facts})

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """How documents lie in rows; RequestError where the tokenizer lacks what it takes."""
        raise lacking(self, "layout", LEARNING)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """One segment of token ids to what the model sees and what it has to predict; all chance comes from rng."""
        raise lacking(self, "draw", LEARNING)

    def finish(self, row: Features, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Add to a row what it has once, however many segments it holds: a seed, sampled negatives."""
        return row

    def collate(self, rows: Sequence[Features], tokenizer: PreTrainedTokenizerBase) -> Batch:
        """Rows to one batch of tensors (rows, longest)."""
        pad = tokenizer.pad_token_id or 0
        return stack(rows, {"input_ids": pad, "decoder_input_ids": pad, "labels": -100, "documents": -1})

    # ---- loss ----

    def targets(self, batch: Batch) -> Sums:
        """How many predictions each head is asked for."""
        return {"loss": (batch["labels"] != -100).sum()}

    @property
    def unteachable(self) -> str:
        """Why no teacher can be learned from beside it; "" where its loss is made of what the model answers."""
        if inspect.unwrap(type(self).loss) is not Objective.loss:
            return "its loss isn't made of `respond`, which a teacher could give too"
        return ""

    def respond(self, model: nn.Module, batch: Batch, family: type[Family]) -> Responses:
        """What the model says at the targets of each head: the loss is made of it, and a teacher is asked for it."""
        return {"loss": Response(self.at_targets(model, batch, family))}

    def scored(self, answers: Responses, batch: Batch, training: bool) -> Sums:
        """The loss of each head's answers, summed over its targets; `training`: whether it is learned from."""
        return {head: answer.guesses.loss() for head, answer in answers.items()}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """The loss of each head, summed over its targets."""
        return self.scored(self.respond(model, batch, family), batch, model.training)

    def at_targets(self, model: nn.Module, batch: Batch, family: type[Family]) -> Guesses:
        """What the model says at the targets: no other logits are computed."""
        inputs = dict(batch)
        labels = inputs.pop("labels")
        return guesses(model, inputs, labels, family, self.head_for(family))[0]

    def represent(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Where `whole`: what the loss compares, (rows, …)."""
        raise lacking(self, "represent", LEARNING)

    def compare(self, representations: Tensor) -> Sums:
        """Where `whole`: the losses of all rows of a step, each summed; their order changes nothing."""
        raise lacking(self, "compare", LEARNING)

    def grade(self, representations: Tensor) -> Tensor:
        """Where `whole`: the number that is said of each row alone, (rows,), in which a teacher is followed."""
        raise lacking(self, "grade", LEARNING)

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """For an evaluation: the losses, and pairs of which `metrics` makes its figures.

        By default one pair a batch: (targets whose token is the likeliest, targets).
        """
        found = self.at_targets(model, batch, family)
        loss, right = found.judged()
        return {"loss": loss}, [(right, len(found.labels))]

    def to_write(self, rows: int, last: bool) -> Sequence[int] | None:
        """Where predictions take long (texts that are written): for which of an evaluation's rows `predict` makes some.

        None: for all of them, by `judge`. `last`: no other evaluation follows.
        """
        return None

    def figures(
        self, means: Mapping[str, float], judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup,
    ) -> dict[str, float]:
        """Figures of an evaluation, from mean losses and what `judge` gave for each batch of the sets' rows."""
        return self.metrics(means, [pair for _, some in judged for pair in some])

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """What the model says of few rows, for people to look at: a dict of texts each; [] where nothing can be shown.

        A list of [text, mark, note] is a text of which parts are marked: right, wrong, doubted.

        {"text": [["the ", ""], ["cat", "wrong", "dog 31 %"], [" sat", ""]]}
        """
        return []

    def tally(self, judged: Sequence[Judged], sets: Sequence[Examples], setup: Setup) -> dict[str, Any]:
        """A count of an evaluation's answers for the run's page, as JSON has it; {} where there is nothing to count."""
        return {}

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Figures of an evaluation, from mean losses and all pairs; by default the targets' perplexity and accuracy."""
        right, asked = (sum(pair[side] for pair in pairs) for side in (0, 1))
        return {**means, "perplexity": perplexity(means["loss"]), "accuracy": right / max(1, asked)}


def perplexity(loss: float) -> float:
    """By a mean loss in nats: exp(loss), where a float can hold it."""
    return math.exp(min(700.0, loss))


class Text:
    """Rows of text, drawn for an objective."""

    def __init__(self, objective: Objective, rows: SegmentRows, setup: Setup) -> None:
        self.objective, self.rows, self.tokenizer = objective, rows, setup.tokenizer
        self.shards = rows.shards if isinstance(rows, Sharded) else None
        writes = setup.family.shape == "encoder-decoder"
        self.decoder_start = setup.family.decoder_start(setup.tokenizer) if writes else None

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, row: int, rng: np.random.Generator) -> Features:
        """The segments of a row, each drawn by itself, numbered and joined."""
        parts = [self.objective.draw(segment, rng, self.tokenizer) for segment in self.rows[row]]
        for one in parts:
            if "decoder_input_ids" in one:  # drawn as T5 has it, where the padding token is first
                one["decoder_input_ids"][0] = self.decoder_start
        return self.objective.finish(join(parts), rng, self.tokenizer)


def join(parts: Sequence[Features]) -> Features:
    """Several segments to one row; `documents` says which segment each position is of."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    joined["documents"] = np.repeat(np.arange(len(parts)), [len(part["input_ids"]) for part in parts])
    if "decoder_input_ids" in joined:
        joined["decoder_documents"] = np.repeat(np.arange(len(parts)), [len(part["labels"]) for part in parts])
    return joined


def guesses(
    model: nn.Module, inputs: dict[str, Any], labels: Tensor, family: type[Family], head: str,
) -> tuple[Guesses, Any]:
    """What a model says where labels (batch, length) aren't -100, and its outputs, with logits that are nobody's.

    Its head sees these positions only; where its last layer is a plain one, the loss does what that layer would do.
    """
    from llmkit.backbones.kernels import shortcuts
    from llmkit.backbones.kernels.chunked_loss import Linear, Logits

    wanted = chosen(labels)
    few = shortcuts.on("target_heads")
    last = plain_last(model, family) if shortcuts.on("chunked_loss") else None
    with only_at(model, family.heads[head], wanted) if few else nullcontext():
        if last is None:
            outputs = family.outputs(model, inputs)
            logits = outputs["prediction_logits" if "prediction_logits" in outputs else "logits"]
            return Logits(logits if few else at(logits, wanted), at(labels, wanted)), outputs
        with called_with(last) as seen:
            outputs = family.outputs(model, inputs)
    hidden, bias = seen[0] if few else at(seen[0], wanted), last.bias
    if family.logits_bias is not None:
        bias = getattr(model, family.logits_bias)[0]
    return Linear(hidden, last.weight, bias, at(labels, wanted)), outputs


def plain_last(model: nn.Module, family: type[Family]) -> nn.Linear | None:
    """The linear layer that makes a model's logits, where these are what it makes; None under an adapter of its own."""
    from torch import nn

    table = model.get_output_embeddings() if family.plain else None  # type: ignore[operator]
    return table if type(table) is nn.Linear else None


@contextmanager
def called_with(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Keep what a layer is called with, (…, width), and let it make nothing of it."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        seen.append(inputs[0])
        return (inputs[0][..., :0, :],)

    hook = layer.register_forward_pre_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


@contextmanager
def only_at(model: nn.Module, head: str, wanted: Tensor) -> Iterator[None]:
    """Let a model's head see hidden states at the wanted positions only: (batch, length, width) -> (targets, width).

    Masked LM asks for 15 % of the positions, instruction tuning for the answer's: the other logits never exist.
    The model itself, its wrappers and its hooks are as they were.
    """

    def choose(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (at(inputs[0], wanted), *inputs[1:])

    module = part(model, head)
    hook = module.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def seen_by(model: nn.Module, head: str, wanted: Tensor) -> Iterator[list[Tensor]]:
    """Keep the hidden states that a head would see at the wanted positions, (targets, width); it makes no logits."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        kept.append(at(inputs[0], wanted))
        return (inputs[0][:, :0], *inputs[1:])

    hook = part(model, head).register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        hook.remove()


def part(model: nn.Module, name: str) -> nn.Module:
    """A model's part by its dotted name, under whatever adapters and wrappers put around the model."""
    module: nn.Module
    for full, module in model.named_modules():
        if full == name or full.endswith(f".{name}"):
            return module
    raise RequestError(f"{type(model).__name__} has no part {name!r}.")


def token(tokenizer: PreTrainedTokenizerBase, role: str, why: str) -> int:
    """The id of a special token; RequestError where the tokenizer has none."""
    found = getattr(tokenizer, f"{role}_token_id")
    if found is None:
        raise RequestError(f"the tokenizer has no {role} token; {why} needs one. Name it in the tokenizer's "
                           f"tokenizer_config.json ({role}_token), or take another tokenizer: {{pretrained: …}}, or "
                           "{train: …}, which has all of them.")
    return int(found)


def more_is_better(metric: str) -> bool:
    """Whether more of a figure is better: as transformers guesses, and for the other figures of which less is."""
    return not metric.endswith(("loss", "perplexity", "distance", "self_bleu", "mse", "generator", "discriminator",
                                "masked_lm", "next_sentence"))  # the latter are losses of one head
