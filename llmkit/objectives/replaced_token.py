"""Replaced-token detection: a small generator makes tokens up, the model tells which (ELECTRA)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.data.batches import Batch, Features
from llmkit.data.rows import Layout
from llmkit.data.tokens import Ids
from llmkit.models.changing.others import take_up
from llmkit.objectives.base import Objective, Samples, Sums, guesses, perplexity
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.objectives.shared.chance import of_gumbel, uniform
from llmkit.objectives.shared.places import at, chosen, marked
from llmkit.objectives.shared.showing import marked as with_marks
from llmkit.objectives.shared.showing import rows_of
from llmkit.recipe import Share
from llmkit.recipe.registry import OPTIONS
from llmkit.system.devices import on_host, sent

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


BLOCK = 128
"""Tokens whose probabilities are added up at once when one is drawn."""


@dataclass(config=OPTIONS)
class ReplacedToken(Objective):
    """Generator and discriminator, trained together (Clark et al. 2020); the discriminator is what is kept."""

    mlm_probability: Share = 0.15
    """Share of a row's tokens that the generator predicts, and may replace."""
    mask_replace_prob: Annotated[float, Field(ge=0, le=1)] = 0.85
    """Of those, the share that it sees as the mask; the rest it sees as they are (the authors' code)."""
    generator_size: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Its width as a fraction of the discriminator's; its depth where the embedding is as wide as the model."""
    discriminator_weight: Annotated[float, Field(gt=0)] = 50.0
    """λ: what the discriminator's loss counts for beside the generator's."""
    sampling: Literal["multinomial", "gumbel"] = "multinomial"
    """How a token is drawn from the generator: by one number each, or by Gumbel noise on every logit."""

    shapes = frozenset({"encoder"})
    heads = ("generator", "discriminator")
    adapters = False
    idle = True  # a pooler that nothing reads

    @property
    def weights(self) -> dict[str, float]:
        """The generator's loss, and λ times the discriminator's."""
        return {"generator": 1.0, "discriminator": self.discriminator_weight}

    @property
    def hiding(self) -> MaskedLM:
        """What the generator learns."""
        return MaskedLM(mlm_probability=self.mlm_probability, mask_replace_prob=self.mask_replace_prob,
                        random_replace_prob=0.0)

    def head_for(self, family: type[Family]) -> str:
        """The head over tokens: ELECTRA's own, or token classification with one label."""
        return family.detector if "AutoModelForMaskedLM" in family.heads else ""

    def config(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """One logit a token."""
        return {"num_labels": 1}

    # ---- rows ----

    def layout(self, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str) -> Layout:
        """As masked language modelling."""
        return self.hiding.layout(tokenizer, max_length, packing)

    def draw(self, segment: Ids, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """What the generator sees and has to predict; its samples are drawn in the loss.

        the cat sat on the mat  ->  [CLS] the [MASK] sat on the mat [SEP], labels at the hidden cat only
        """
        return self.hiding.draw(segment, rng, tokenizer)

    def finish(self, row: Features, rng: np.random.Generator, tokenizer: PreTrainedTokenizerBase) -> Features:
        """The seed of the row's samples."""
        return {**row, "seed": np.array([rng.integers(2**63 - 1)])}

    # ---- networks ----

    def assemble(
        self, model: nn.Module, family: type[Family], tokenizer: PreTrainedTokenizerBase, folder: Path | None,
    ) -> nn.Module:
        """The discriminator with its generator, whose embeddings are the discriminator's."""
        import torch
        from transformers import AutoModelForMaskedLM

        common: dict[str, Any] = {"attn_implementation": family.attention, "dtype": torch.float32}
        small = smaller(model.config, self.generator_size)  # type: ignore[arg-type]
        if folder is not None and (folder / "generator").is_dir():
            generator: Any = take_up(AutoModelForMaskedLM, folder / "generator", tokenizer, small, **common)
        else:
            generator = AutoModelForMaskedLM.from_config(small, **common)  # type: ignore[no-untyped-call]
        return pair(model, generator)

    def kept(self, assembled: nn.Module) -> nn.Module:
        """The discriminator."""
        kept: nn.Module = assembled.discriminator  # type: ignore[assignment]
        return kept

    def others(self, assembled: nn.Module) -> dict[str, nn.Module]:
        """The generator."""
        return {"generator": assembled.generator}  # type: ignore[dict-item]

    # ---- loss ----

    @property
    def unteachable(self) -> str:
        """What it is asked is made up by its own generator."""
        return ("what it is asked depends on its own generator; teach the model that it leaves, by a task, or pretrain "
                "by masked_lm")

    def targets(self, batch: Batch) -> Sums:
        """Hidden tokens for the generator, every token for the discriminator."""
        return {"generator": (batch["labels"] != -100).sum(), "discriminator": real(batch).sum()}

    def loss(self, model: nn.Module, batch: Batch, family: type[Family]) -> Sums:
        """Cross-entropy of the hidden tokens, binary cross-entropy of every token."""
        return self.both(model, batch, family)[0]

    def both(
        self, model: nn.Module, batch: Batch, family: type[Family], count: bool = False,
        keep: dict[str, Tensor] | None = None,
    ) -> tuple[Sums, list[int]]:
        """The losses, and with `count` the counts that metrics are made from; what was seen and said goes to `keep`."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits

        inputs = dict(batch)
        labels, seed = inputs.pop("labels"), inputs.pop("seed")
        wanted = chosen(labels)
        known = marked(real({name: on_host(value) for name, value in inputs.items()}), labels.device)
        counted = (on_host(labels) != -100).sum(1)
        guess, _ = guesses(model.generator, inputs, labels, family, "AutoModelForMaskedLM")  # type: ignore[arg-type]
        drawn = guess.labels.clone()
        noise = self.noise(counted, on_host(seed), guess.words, labels.device)

        right = []

        def draw(rows: slice, chances: Tensor) -> None:
            drawn[rows] = choose(chances, noise[rows])
            if count:
                right.append(int((chances.argmax(-1) == guess.labels[rows]).sum()))

        told = guess.loss(watch=draw)
        original = inputs["input_ids"].where(labels == -100, labels)
        replaced = original.clone()
        if wanted.dim() == 2:
            replaced[wanted] = drawn
        else:
            replaced.view(-1)[wanted] = drawn
        made_up = at(replaced != original, known)
        doubt = family.outputs(model.discriminator, {**inputs, "input_ids": replaced}).logits  # type: ignore[arg-type]
        if keep is not None:
            keep |= {"ids": replaced, "replaced": replaced != original, "doubt": doubt.reshape(labels.shape)}
        doubt = at(doubt.float().reshape(labels.shape), known)
        told_apart = binary_cross_entropy_with_logits(doubt, made_up.float(), reduction="sum")
        sums = {"generator": told, "discriminator": told_apart}
        if not count:
            return sums, []
        said = doubt > 0
        found = torch.stack([(said & made_up).sum(), said.sum(), made_up.sum(), (said == made_up).sum()]).tolist()
        return sums, [sum(right), int(counted.sum()), *found, len(doubt)]

    def noise(self, counts: Tensor, seeds: Tensor, words: int, device: torch.device) -> Tensor:
        """What its draws are made of, (targets, 1 or words), on the device; many numbers are drawn there."""
        if self.sampling == "gumbel" and device.type != "mps":  # which has no 64 bits
            return uniform(counts.tolist(), seeds[:, 0].tolist(), words, device)
        made = numbers(counts, seeds, 1 if self.sampling == "multinomial" else words)
        return made if device.type == "mps" else sent(made, device)

    def show(
        self, model: nn.Module, batch: Batch, family: type[Family], tokenizer: PreTrainedTokenizerBase,
    ) -> Samples:
        """The row as the generator made it up, with what the discriminator doubts and what it fails to."""
        seen: dict[str, Tensor] = {}
        self.both(model, batch, family, keep=seen)
        chances, out = seen["doubt"].float().sigmoid().tolist(), []
        for row, ids in enumerate(rows_of(seen["ids"], batch)):
            marks = {}
            for place, made_up in enumerate(seen["replaced"][row].tolist()[: len(ids)]):
                chance = chances[row][place]
                if made_up:
                    marks[place] = ("right" if chance > 0.5 else "wrong", f"replaced, doubted {chance:.0%}")
                elif chance > 0.5:
                    marks[place] = ("doubted", f"real, doubted {chance:.0%}")
            out.append({"text with replaced words": with_marks(ids, marks, tokenizer)})
        return out

    def judge(self, model: nn.Module, batch: Batch, family: type[Family]) -> tuple[Sums, list[tuple[Any, Any]]]:
        """The losses, and a batch's counts as one pair."""
        losses, counts = self.both(model, batch, family, count=True)
        return losses, [(counts, None)]

    def metrics(self, means: Mapping[str, float], pairs: Sequence[tuple[Any, Any]]) -> dict[str, float]:
        """The generator's perplexity and accuracy; how well replaced tokens are found."""
        right, hidden, hits, said, made_up, agreed, tokens = np.sum([counts for counts, _ in pairs], axis=0).tolist()
        precision, recall = hits / max(1, said), hits / max(1, made_up)
        return {**means, "generator_perplexity": perplexity(means["generator"]),
                "generator_accuracy": right / max(1, hidden), "accuracy": agreed / max(1, tokens),
                "replaced": made_up / max(1, tokens), "precision": precision, "recall": recall,
                "f1": 2 * hits / max(1, said + made_up)}


def pair(discriminator: nn.Module, generator: nn.Module) -> nn.Module:
    """Both networks as one module; the generator's embedding tables are the discriminator's own."""
    from torch import nn

    tables = {name: part for name, part in discriminator.named_modules() if isinstance(part, nn.Embedding)}
    for name, part in generator.named_modules():
        if isinstance(part, nn.Embedding) and name in tables and part.weight.shape == tables[name].weight.shape:
            part.weight = tables[name].weight
    generator.tie_weights()  # type: ignore[operator]
    both = nn.Module()
    both.discriminator, both.generator = discriminator, generator
    return both


def smaller(config: PretrainedConfig, size: float) -> PretrainedConfig:
    """The generator's config.

    Where embeddings have a width of their own (ELECTRA, ALBERT), the model is a fraction as wide: heads, width and
    inner width. Elsewhere shared embeddings fix the width, and it is a fraction as deep (as in He et al. 2023,
    DeBERTaV3).
    """
    small = copy.deepcopy(config)
    fields = config.to_dict()
    if "embedding_size" in fields:
        head = config.hidden_size // config.num_attention_heads
        small.num_attention_heads = max(1, round(size * config.num_attention_heads))
        small.hidden_size = small.num_attention_heads * head
        small.intermediate_size = max(1, round(size * config.intermediate_size))
    else:
        small.num_hidden_layers = max(1, round(size * config.num_hidden_layers))
        if "layer_types" in fields:
            small.layer_types = config.layer_types[: small.num_hidden_layers]
    small.architectures = None
    return small


def real(batch: Batch) -> Tensor:
    """Which positions aren't padding: (batch, length), bool."""
    import torch

    if "documents" in batch:
        return batch["documents"] >= 0
    if "attention_mask" in batch:
        return batch["attention_mask"] > 0
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)


def sample(logits: Tensor, counts: Tensor, seeds: Tensor, way: str) -> Tensor:
    """Draw a token from each distribution: (targets, vocabulary) -> (targets,).

    Chance is of the row alone: the `counts[i]` targets of row i get numbers from `seeds[i]`, whatever stands beside
    it. Inverse transform sampling takes one number a target; the Gumbel-max trick one a logit.
    """
    return choose(logits.float().softmax(-1), numbers(counts, seeds, 1 if way == "multinomial" else logits.shape[-1]))


def numbers(counts: Tensor, seeds: Tensor, width: int) -> Tensor:
    """(targets, width) numbers between 0 and 1, for the targets of each row from a generator of its own; fp64."""
    import torch

    return uniform(counts.tolist(), seeds[:, 0].tolist(), width, torch.device("cpu")).to(counts.device)


def choose(chances: Tensor, noise: Tensor) -> Tensor:
    """The token that each target's numbers choose: one number by inverse transform, one a token by the Gumbel trick."""
    if chances.device.type == "mps":  # which has no 64 bits
        return choose(chances.cpu(), noise).to(chances.device)
    if noise.shape[1] == 1:
        return on_ladder(chances, noise)
    likeliest: Tensor = (chances.double().log() + of_gumbel(noise)).argmax(-1)
    return likeliest


def on_ladder(weights: Tensor, heights: Tensor) -> Tensor:
    """The token at which probabilities (targets, vocabulary), added up, reach heights (targets, 1) -> (targets,).

    The sums of BLOCK tokens at a time are added up first, in fp64, then what is inside the block that is reached.
    """
    import torch

    words = weights.shape[-1]
    even = words // BLOCK * BLOCK
    whole = weights[:, :even].reshape(len(weights), even // BLOCK, BLOCK)
    rest = weights[:, even:]
    sums = torch.cat([whole.sum(-1), rest.sum(-1, keepdim=True)], 1).double()
    ladder = sums.cumsum(-1)
    left = heights * ladder[:, -1:]
    block = (ladder < left).sum(-1, keepdim=True).clamp_max(sums.shape[-1] - 1)
    left = left - (ladder - sums).gather(-1, block)
    places = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = weights.gather(-1, places.clamp_max(words - 1)).double().masked_fill(places >= words, 0.0).cumsum(-1)
    step = (inside < left).sum(-1, keepdim=True).clamp_max(BLOCK - 1)
    return (block * BLOCK + step)[:, 0].clamp_max(words - 1)
