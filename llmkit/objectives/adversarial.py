"""Adversarial training: a generator learns to write what a discriminator can't tell from real text (a GAN)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.sources import Reader
from llmkit.data.tokens import Ids
from llmkit.models.changing.others import take_up
from llmkit.objectives.base import Objective, Samples, Sets, Setup, Sums, Text, perplexity, token
from llmkit.objectives.causal_lm import CausalLM
from llmkit.objectives.shared.chance import gumbel
from llmkit.objectives.shared.showing import plain
from llmkit.objectives.shared.variety import bleu, distinct, harmonic, self_bleu
from llmkit.recipe import Positive, registry
from llmkit.recipe.registry import OPTIONS
from llmkit.system.devices import on_host
from llmkit.system.errors import RequestError, nearest

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
HEAD = "AutoModelForSequenceClassification"
"""The discriminator's."""


@dataclass(config=OPTIONS)
class Adversarial(Objective):
    """Generator and discriminator, one at a time (Yu et al. 2017; Nie et al. 2019); the generator is what is kept.

    Samples are drawn by the Gumbel-max trick; their gradient is that of a softmax with the same noise (the
    straight-through Gumbel-softmax estimator, Jang et al. 2017). Expect no better model: docs/objectives/adversarial.md
    says what it brought.
    """

    warmup: Count = 500
    """Steps of maximum likelihood before the two networks take turns."""
    discriminator_warmup: Count = 100
    """Steps that the discriminator then learns alone."""
    discriminator_steps: Positive = 1
    """Steps of the discriminator before each of the generator."""
    sample_length: Annotated[int, Field(ge=2)] = 32
    """Tokens of a sample, after a real first one; the real texts beside it are cut to as many."""
    temperature: Rate = 0.5
    """Of the softmax that the gradient goes through; the samples themselves are drawn at temperature 1."""
    adversarial_rate: Rate = 0.03
    """What the learning rate is multiplied by in an adversarial step of the generator."""
    discriminator_rate: Rate = 0.2
    """What it is multiplied by in a step of the discriminator."""
    discriminator: str = "bert"
    """Its family, an encoder; it is new, and reads the generator's tokens."""
    discriminator_size: str = "tiny"
    """A named size of that family."""
    discriminator_config: dict[str, Any] = field(default_factory=dict)
    """Any field of that family's transformers config."""
    samples: Annotated[int, Field(ge=2)] = 128
    """Rows of the validation text that an evaluation uses, each with a sample beside it."""
    collapse: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """The run ends when distinct_2 of the samples is less than this share of real text's."""

    shapes = frozenset({"decoder"})
    head = "AutoModelForCausalLM"
    packings = ("blocks", "none")
    heads = ("likelihood", "generator", "discriminator")
    adapters = False
    idle = True  # who isn't at turn
    best = "bleu_ha"

    def __post_init__(self) -> None:
        try:
            able = self.discriminator != "auto" and judges(self.judging)
        except RequestError as error:
            raise ValueError(f"discriminator: {error}") from error
        if not able:
            can = (name for name in registry.names("backbones") if name != "auto")
            raise ValueError(f"discriminator: {self.discriminator} can't tell texts apart, only an encoder can: "
                             f"{', '.join(name for name in can if judges(registry.find('backbones', name)))}")
        if self.discriminator_size not in self.judging.sizes:
            raise ValueError(f"discriminator_size: {self.discriminator} has no size {self.discriminator_size!r}."
                             f"{nearest(self.discriminator_size, self.judging.sizes)}")

    @property
    def judging(self) -> type[Family]:
        """The discriminator's family."""
        return registry.find("backbones", self.discriminator)

    # ---- rows ----

    def prepare(self, train: Sequence[Reader], validation: Sequence[Reader] | float | None, setup: Setup) -> Sets:
        """Text as it is; of what is held out, `samples` rows evenly from all of it."""
        self.judging.check_config(self.discriminator_config)
        sets = super().prepare(train, validation, setup)
        total = sum(map(len, sets.validation))
        if total <= self.samples:
            return sets
        some = [text.rows[row] for text in sets.validation for row in range(len(text))]  # type: ignore[attr-defined]
        held = Text(self, [some[i] for i in evenly(total, self.samples)], setup)
        return replace(sets, validation=[held], notes=[*sets.notes, f"{self.samples} held-out rows are evaluated"])

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """As causal language modelling; a sample ends by the token that documents end with."""
        token(tokenizer, "eos", "adversarial")
        if self.sample_length > max_length:
            raise RequestError(f"objective.sample_length: {self.sample_length} tokens are more than the {max_length} "
                               "of a row; make it less, or data.max_length more.")
        return CausalLM().layout(tokenizer, max_length, packing)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """Real text; samples are drawn in the loss.

        <s> the cat sat  ->  inputs <s> the cat, labels the cat sat
        """
        return CausalLM().draw(segment, rng, tokenizer)

    def finish(self, row: Features, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """The seed of the row's sample."""
        return {**row, "seed": np.array([rng.integers(2**63 - 1)])}

    # ---- networks ----

    def assemble(
        self, model: nn.Module, family: type[Family], tokenizer: PreTrainedTokenizerBase, folder: Path | None,
    ) -> nn.Module:
        """The generator with its discriminator, and the token that texts end with."""
        import torch
        from torch import nn
        from transformers import AutoModelForSequenceClassification as Judge

        common: dict[str, Any] = {"attn_implementation": self.judging.attention, "dtype": torch.float32}
        both = nn.Module()
        both.generator, both.end = model, int(tokenizer.eos_token_id)  # type: ignore[assignment]
        words = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        config = self.judging.config(
            self.discriminator_size, {"vocab_size": words, "num_labels": 1, **self.discriminator_config}, tokenizer)
        if folder is not None and (folder / "discriminator").is_dir():
            both.discriminator = take_up(Judge, folder / "discriminator", tokenizer, config, **common)
            return both
        limit = self.judging.position_limit(config)
        if limit is not None and limit < self.sample_length + 1:
            raise RequestError(f"objective.sample_length: {self.sample_length} tokens after a first one are more than "
                               f"the discriminator's {limit} positions.")
        try:
            both.discriminator = Judge.from_config(config, **common)  # type: ignore[no-untyped-call]
        except (ValueError, KeyError, TypeError, RuntimeError, AssertionError) as error:
            raise RequestError(f"objective.discriminator_config: {' '.join(str(error).split())[:300]}") from error
        return both

    def kept(self, assembled: nn.Module) -> nn.Module:
        """The generator."""
        kept: nn.Module = assembled.generator  # type: ignore[assignment]
        return kept

    def others(self, assembled: nn.Module) -> dict[str, nn.Module]:
        """The discriminator."""
        return {"discriminator": assembled.discriminator}  # type: ignore[dict-item]

    # ---- turns ----

    def phase(self, step: int) -> str:
        """Which loss a step minimises: likelihood, then the discriminator's and the generator's by turns."""
        since = step - self.warmup - self.discriminator_warmup
        if step < self.warmup:
            return "likelihood"
        return "generator" if since >= 0 and since % (self.discriminator_steps + 1) == self.discriminator_steps else (
            "discriminator")

    def turn(self, step: int) -> str:
        """The network that learns."""
        return "discriminator" if self.phase(step) == "discriminator" else "generator"

    def pace(self, step: int) -> float:
        """Both adversarial phases have a learning rate of their own."""
        return {"likelihood": 1.0, "generator": self.adversarial_rate,
                "discriminator": self.discriminator_rate}[self.phase(step)]

    def asked(self, batch: Batch) -> tuple[str, ...]:
        """The heads that a batch is for: one in a training step, all in an evaluation."""
        return (self.phase(int(on_host(batch["step"]))),) if "step" in batch else self.heads

    def verdict(self, evaluations: Sequence[Mapping[str, float]]) -> str | None:
        """Collapse: samples that consist of fewer and fewer pairs of tokens."""
        last = evaluations[-1]
        if last["step"] > self.warmup and last["distinct_2"] < self.collapse * last["real_distinct_2"]:
            return (f"the generator collapsed: distinct_2 of its samples is {last['distinct_2']:.3f}, less than "
                    f"{self.collapse:g} of real text's {last['real_distinct_2']:.3f}")
        return None

    # ---- loss ----

    @property
    def unteachable(self) -> str:
        """Two networks play against each other."""
        return "its two networks learn from each other, and a teacher of one would spoil the game"

    def targets(self, batch: Batch) -> Sums:
        """Tokens for the likelihood, a sample a row for the generator, with a real text for the discriminator."""
        import torch

        rows = torch.tensor(len(batch["input_ids"]), device=batch["input_ids"].device)
        counts = {"likelihood": (batch["labels"] != -100).sum(), "generator": rows, "discriminator": 2 * rows}
        return {head: counts[head] if head in self.asked(batch) else torch.zeros_like(rows) for head in self.heads}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """The loss of who is at turn."""
        import torch

        (head,) = self.asked(batch)
        first = batch["input_ids"][:, :1]
        if head == "likelihood":
            found = self.likelihood(model, batch, family)
        elif head == "discriminator":
            with torch.no_grad():
                drawn, known, _ = self.sample(model, batch)
            real, there = self.real(model, batch)
            told = self.told(model, torch.cat([first, first]), torch.cat([real, drawn]), torch.cat([there, known]))
            found = self.found_out(*told.chunk(2))
        else:
            drawn, known, slopes = self.sample(model, batch)
            with still(model.discriminator):  # type: ignore[arg-type]
                found = self.believed(self.told(model, first, drawn, known, slopes))
        return {name: found if name == head else torch.zeros_like(found) for name in self.heads}

    def likelihood(self, model: nn.Module, batch: Batch, family: type[Family]) -> Tensor:
        """Cross-entropy of the real text."""
        inputs = {name: value for name, value in batch.items() if name not in ("seed", "step")}
        return CausalLM().loss(model.generator, inputs, family)["loss"]  # type: ignore[arg-type]

    def sample(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """A continuation of each row's first token, by the row's own noise and without dropout: see `unroll`."""
        generator: nn.Module = model.generator  # type: ignore[assignment]
        words = generator.get_input_embeddings().num_embeddings  # type: ignore[operator]
        seeds, device = on_host(batch["seed"])[:, 0].tolist(), batch["input_ids"].device
        noise = islice(gumbel(seeds, words, device), self.sample_length)
        with still(generator):
            ids, slopes = unroll(generator, batch["input_ids"][:, :1], noise, self.temperature)
        return ids, until(ids, model.end), slopes  # type: ignore[arg-type]

    def real(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The real text after each row's first token, cut to the length of a sample: ids, and which of them count."""
        from torch.nn.functional import pad

        labels = pad(batch["labels"], (0, self.sample_length), value=-100)[:, : self.sample_length]
        return labels.clamp_min(0), until(labels, model.end) & (labels != -100)  # type: ignore[arg-type]

    def told(
        self, model: nn.Module, first: Tensor, ids: Tensor, known: Tensor, slopes: Tensor | None = None,
    ) -> Tensor:
        """What the discriminator says of texts, above 0: real. (rows, 1) and (rows, length) -> (rows,)."""
        import torch

        discriminator: Any = model.discriminator
        table = discriminator.get_input_embeddings().weight
        seen = torch.cat([embedded(first, None, table), embedded(ids, slopes, table)], 1)
        there = torch.cat([torch.ones_like(first), known.long()], 1)
        said: Tensor = discriminator(inputs_embeds=seen, attention_mask=there).logits
        return said[:, 0].float()

    def found_out(self, real: Tensor, drawn: Tensor) -> Tensor:
        """The discriminator's binary cross-entropy, summed."""
        from torch.nn.functional import softplus

        return softplus(-real).sum() + softplus(drawn).sum()

    def believed(self, drawn: Tensor) -> Tensor:
        """The generator's loss, -log D(sample), summed: the one that doesn't saturate (Goodfellow et al. 2014, §3)."""
        from torch.nn.functional import softplus

        return softplus(-drawn).sum()

    # ---- evaluation ----

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """A sample of the generator beside the real text, and what the discriminator takes each for."""
        first, real, drawn = batch["input_ids"][:, :1], self.real(model, batch), self.sample(model, batch)[:2]
        sides = []
        for ids, known in (drawn, real):
            doubts = self.told(model, first, ids, known).sigmoid().tolist()
            texts = [plain([start, *row[:length]], tokenizer) for start, row, length in zip(
                first[:, 0].tolist(), ids.tolist(), known.sum(1).tolist(), strict=True)]
            sides.append(list(zip(texts, doubts, strict=True)))
        return [{"the generator writes": ours, "real, says the discriminator": f"{mine:.0%}", "the real text": theirs,
                 "real, says the discriminator of it": f"{real_too:.0%}"}
                for (ours, mine), (theirs, real_too) in zip(*sides, strict=True)]

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """All losses; for each row its sample and its real text, each with whether it was taken for real."""
        first, real, drawn = batch["input_ids"][:, :1], self.real(model, batch), self.sample(model, batch)[:2]
        of_real, of_drawn = (self.told(model, first, *text) for text in (real, drawn))
        losses = {"likelihood": self.likelihood(model, batch, family), "generator": self.believed(of_drawn),
                  "discriminator": self.found_out(of_real, of_drawn)}
        theirs, ours = (
            [(text[:length], doubt > 0) for text, length, doubt in
             zip(ids.tolist(), known.sum(1).tolist(), said.tolist(), strict=True)]
            for (ids, known), said in ((real, of_real), (drawn, of_drawn)))
        return losses, list(zip(ours, theirs, strict=True))

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """Perplexity of real text, how well samples are found out, and how good and how varied they are.

        `bleu`: samples against real texts (quality); `bleu_backward`: real texts against samples (variety);
        `bleu_ha`: their harmonic mean (Shi et al. 2018). BLEU is 0 to 100.
        """
        pairs = sorted(pairs)  # the same figures, however rows were shared
        right = sum((not drawn) + real for (_, drawn), (_, real) in pairs)
        some = [pairs[i] for i in evenly(len(pairs), min(len(pairs), self.samples))]  # more samples repeat more
        drawn, real = [one for (one, _), _ in some], [one for _, (one, _) in some]
        quality, variety = bleu(drawn, real), bleu(real, drawn)
        return {**means, "perplexity": perplexity(means["likelihood"]), "accuracy": right / (2 * len(pairs)),
                "distinct_1": distinct(drawn, 1), "distinct_2": distinct(drawn, 2),
                "real_distinct_2": distinct(real, 2), "self_bleu": self_bleu(drawn), "bleu": quality,
                "bleu_backward": variety, "bleu_ha": harmonic(quality, variety)}


def judges(family: type[Family]) -> bool:
    """Whether a family can be a discriminator: an encoder with a head over texts."""
    return family.shape == "encoder" and HEAD in family.heads


def evenly(total: int, count: int) -> list[int]:
    """Some of so many places, from all over: 3 of 10 are 0, 3 and 6."""
    return [i * total // count for i in range(count)]


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Without dropout while the block runs."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def straight_through(logits: Tensor, noise: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw a token from each distribution, with a gradient: (rows, words) -> (rows,), (rows, words).

    The token is that of the Gumbel-max trick, an honest sample. Its one-hot vector plus the slope, which is 0, has the
    gradient of softmax((logits + noise) / temperature) (Jang et al. 2017, §2.2).
    """
    noisy = logits.float() + noise.float()
    soft = (noisy / temperature).softmax(-1)
    return noisy.argmax(-1), soft - soft.detach()


def embedded(ids: Tensor, slopes: Tensor | None, table: Tensor) -> Tensor:
    """(one_hot(ids) + slopes) @ table: the tokens' own rows, and a gradient by how every other token would differ."""
    from torch.nn.functional import embedding

    return embedding(ids, table) if slopes is None else embedding(ids, table) + slopes @ table


def unroll(
    generator: nn.Module, first: Tensor, noise: Iterator[Tensor], temperature: float,
) -> tuple[Tensor, Tensor | None]:
    """Draw token after token, each from all before it: as many as there is noise for.

    first (rows, 1) -> ids (rows, length) and, where gradients are on, slopes (rows, length, words): later tokens then
    depend on earlier ones through the keys and values that the model keeps of them.
    """
    import torch

    table = generator.get_input_embeddings().weight  # type: ignore[operator]
    slow = torch.is_grad_enabled()
    ids, slopes, cache, seen = [], [], None, embedded(first, None, table)
    for one in noise:
        out = generator(inputs_embeds=seen, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        drawn, slope = straight_through(out.logits[:, -1], one, temperature)
        ids.append(drawn)
        slopes.append(slope)
        seen = embedded(drawn, slope if slow else None, table)[:, None]
    return torch.stack(ids, 1), torch.stack(slopes, 1) if slow else None


def until(ids: Tensor, end: int) -> Tensor:
    """Which tokens of a text count: a . b . c  ->  1 1 0 0 0 where the point is the end."""
    ended = (ids == end).long()
    return ended.cumsum(1) - ended == 0
