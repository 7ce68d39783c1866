"""Mixture of experts: which experts the routers of a model choose, how evenly, and the loss that evens it out."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llmkit.backbones.kernels.privates import records
from llmkit.system.devices import finest
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

BALANCING = ("gate_logits", "num_experts", "top_k", "attention_mask")
"""What transformers' balancing loss takes, in all models that have the one of Mixtral."""
COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef", "router_z_loss_coef")
"""What the weight of a router's loss is called in a config."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""What the number of a layer's experts is called in a config."""
CHOSEN = ("num_experts_per_tok", "moe_top_k", "moe_topk")
"""What the number of experts that a token goes through is called."""
LAYER = "router_loss/"
"""What stands before a layer's number, from 0, in the name of its own balancing loss."""
FIGURES = ("router_loss", "expert_share_max", "expert_share_min", "expert_entropy")
"""What `Load.figures` are called."""


@dataclass(frozen=True)
class Load:
    """What routers did with some tokens: sums over them, so that the loads of several batches add up.

    Two tokens, one layer of three experts, two chosen by each token:
    chosen [[2, 1, 1]]   chances [[0.9, 0.7, 0.4]]   tokens [2]
    """

    chosen: Tensor
    """How many tokens chose each expert, (layers, experts)."""
    chances: Tensor
    """The routers' probabilities, summed over the tokens, (layers, experts): the loss has its gradient from here."""
    tokens: Tensor
    """Tokens that each layer saw, (layers,); padding isn't among them."""

    def __add__(self, other: Load) -> Load:
        return Load(self.chosen + other.chosen, self.chances + other.chances, self.tokens + other.tokens)

    def kept(self) -> Load:
        """Without gradients, in fp64: sums of many batches stay exact."""
        fine = finest(self.chosen.device)
        return Load(self.chosen.to(fine), self.chances.detach().to(fine), self.tokens.to(fine))

    def flat(self) -> Tensor:
        """As one row of numbers, for processes to add up."""
        return torch.cat([self.chosen.flatten(), self.chances.flatten(), self.tokens])

    def of_flat(self, numbers: Tensor) -> Load:
        """A load of this one's shape from its row of numbers."""
        size = self.chosen.numel()
        chosen, chances, tokens = torch.split(numbers, [size, size, len(self.tokens)])
        return Load(chosen.view_as(self.chosen), chances.view_as(self.chances), tokens)

    def balance(self, whole: Load | None = None) -> Tensor:
        """The loss that evens out the experts' loads (Fedus et al. 2021, "Switch Transformers", eq. 4 to 6).

            experts x sum over experts of (share of tokens that chose it) x (its mean probability)

        It is k, the experts that a token chooses, where all get the same, and at most k x experts. Shares and mean
        probabilities are those of all layers together, as in transformers' load_balancing_loss_func. Shares are
        counts: the gradient goes through the probabilities alone.

        `whole` is the load of a step that this one is a part of. The shares and the number of tokens are then the
        whole's, and the parts' losses and gradients add up to the whole's, wherever it is cut.
        """
        whole = whole or self
        count = whole.tokens.sum()
        shares = (whole.chosen.sum(0) / count).to(self.chances.dtype)
        return len(shares) * (shares * self.chances.sum(0)).sum() / count.to(self.chances.dtype)

    def by_layer(self) -> Tensor:
        """The balancing loss of each layer by itself, (layers,): what all together even out shows here."""
        tokens = self.tokens[:, None].clamp(min=1)
        return self.chosen.shape[1] * (self.chosen / tokens * (self.chances / tokens)).sum(1)

    def shares(self) -> Tensor:
        """The share of a layer's choices that each expert got, (layers, experts): each layer's add up to 1."""
        return self.chosen / self.chosen.sum(1, keepdim=True).clamp(min=1)

    def figures(self) -> Tensor:
        """(4,): by the names of `FIGURES`, the balancing loss, the largest and the smallest share that an expert of
        any layer got, and the entropy of the shares, 1 where all are the same, 0 where one expert gets all.
        """
        shares = self.shares()
        most = math.log(shares.shape[1]) or 1.0
        entropy = torch.special.entr(shares).sum(1).mean() / most
        return torch.stack([self.balance().to(shares.dtype), shares.max(), shares.min(), entropy])


@dataclass(frozen=True)
class Router:
    """A layer's router: the module, and where its logits stand in what it returns."""

    name: str
    module: nn.Module
    index: int
    body: nn.Module
    """The model that it is a part of, which is given the mask of its tokens."""


@dataclass
class Heard:
    """What routers returned while they were heard, (tokens or positions, experts) a call."""

    calls: dict[int, list[tuple[Tensor, Tensor | None, Tensor | None]]] = field(default_factory=dict)
    """By the router's place: logits, the experts that were chosen, and which positions are tokens (None: all)."""
    masks: dict[int, Tensor | None] = field(default_factory=dict)
    """Of the batch that is on its way through a body."""


@dataclass(frozen=True)
class Routers:
    """The routers of a model, in the order of its layers."""

    routers: tuple[Router, ...]
    coefficient: float
    """What the balancing loss counts for in the loss that is minimised: `router_aux_loss_coef` of the config."""
    experts: int
    """How many a layer has."""
    k: int
    """How many of them a token goes through."""
    balances: bool
    """Whether transformers has a balancing loss for the model; others even out their loads in other ways, or not."""

    @classmethod
    def of(cls, model: nn.Module) -> Routers | None:
        """A model's routers; None where it has none.

        RequestError where their loss isn't known here, and where a token would choose more experts than there are.
        """
        routers = tuple(found(model))
        if not routers:
            return None
        body = routers[0].body
        config: Any = body.config.get_text_config()  # type: ignore[union-attr, operator]
        function: Any = vars(sys.modules[type(body).__module__]).get("load_balancing_loss_func")
        weight = coefficient(config) if function is not None else 0.0
        if weight and tuple(inspect.signature(function).parameters) != BALANCING:
            fields = ", ".join(f"{name}: 0" for name in COEFFICIENTS if weight_in(config, name))
            raise RequestError(f"backbone: the routers of a {config.model_type} have a loss of their own kind, which "
                               f"llmkit doesn't compute. Set backbone.config: {{{fields}}} to train without it, or "
                               "take a qwen3_moe, mixtral, olmoe or another model whose routers have Mixtral's loss.")
        experts, k = number(config, EXPERTS), number(config, CHOSEN)
        if k > experts:
            raise RequestError(f"backbone.config.num_experts_per_tok: a token can't go through {k} of {experts} "
                               "experts.")
        return cls(routers, weight, experts, k, function is not None)

    @contextmanager
    def hear(self, batch: Mapping[str, Any]) -> Iterator[Heard]:
        """Keep what the routers return while the block runs; nothing of the model is changed.

        Where a body is called without a mask of its tokens, or with one of pairs of positions, `documents` or
        `attention_mask` of the batch say which positions are tokens.
        """
        heard = Heard()
        hooks = [router.module.register_forward_hook(self._keep(place, heard))
                 for place, router in enumerate(self.routers)]
        for body in {id(router.body): router.body for router in self.routers}.values():
            hooks.append(body.register_forward_pre_hook(masked(heard, batch), with_kwargs=True))
        try:
            yield heard
        finally:
            for hook in hooks:
                hook.remove()

    def _keep(self, place: int, heard: Heard) -> Any:
        router = self.routers[place]

        def keep(module: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
            parts = outputs if isinstance(outputs, tuple) else (outputs,)
            # no operation here: what gradient checkpointing computes again must be what was computed
            logits = parts[router.index]
            rows = logits.numel() // logits.shape[-1]
            picks = [part for part in parts if isinstance(part, Tensor) and not part.is_floating_point()
                     and part.dim() == 2 and len(part) == rows]
            heard.calls.setdefault(place, []).append(
                (logits, picks[0] if picks else None, heard.masks.get(id(router.body))))

        return keep

    def load(self, heard: Heard) -> Load | None:
        """The sums over the tokens of all calls; None where no router was called."""
        if len(heard.calls) < len(self.routers):
            return None
        layers = []
        for place in range(len(self.routers)):
            of_calls = [self._counted(*call) for call in heard.calls[place]]
            layers.append([torch.stack(parts).sum(0) for parts in zip(*of_calls, strict=True)])
        return Load(*(torch.stack(parts) for parts in zip(*layers, strict=True)))

    def nothing(self, device: torch.device) -> Load:
        """The load of no token."""
        layers = len(self.routers)
        none = torch.zeros(layers, self.experts, dtype=finest(device), device=device)
        return Load(none, none, none.new_zeros(layers))

    def _counted(self, logits: Tensor, chosen: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(tokens that chose each expert, probabilities summed, tokens) of one router's call."""
        logits = logits.reshape(-1, logits.shape[-1])
        chances = logits.float().softmax(-1)
        picks = chances.detach().topk(self.k, -1).indices if chosen is None else chosen.reshape(len(logits), -1)
        if mask is None or mask.numel() != len(logits):  # the layers of a batch without its padding see tokens only
            weight = chances.new_ones(len(logits))
        else:
            weight = mask.reshape(-1).to(chances)
        fine = weight.to(finest(weight.device))
        counts = fine.new_zeros(logits.shape[-1]).index_add_(
            0, picks.reshape(-1), fine.repeat_interleave(picks.shape[1]))
        return counts, weight @ chances, fine.sum()

    def idle(self, model: nn.Module) -> int:
        """How many of a model's parameters are not at work for a token: those of the experts that it doesn't choose."""
        held = sum(parameter.numel() for parameter in self.tables(model).values())
        return held * (self.experts - self.k) // self.experts

    def tables(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The parameters that hold the experts of a layer, (experts, …), by name."""
        return {name: parameter for name, parameter in model.named_parameters()
                if "experts" in name.split(".") and parameter.shape[:1] == (self.experts,)}

    def describe(self) -> str:
        """`2 of 8 experts a token in each of 4 layers, router_aux_loss_coef 0.001`."""
        return (f"{self.k} of {self.experts} experts a token in each of {len(self.routers)} layers; the load-balancing "
                + (f"loss counts {self.coefficient:g} (backbone.config.router_aux_loss_coef)" if self.coefficient
                   else "loss is off: router_aux_loss_coef is 0" if self.balances else
                   "loss is none that transformers has for this model"))


def found(model: nn.Module) -> Iterator[Router]:
    """The routers of a model of transformers, under whatever is put around it: where it takes `router_logits` from."""
    seen = set()
    bodies = [(name, part) for name, part in model.named_modules() if records(part, "router_logits")]
    for name, body in reversed(bodies):  # the innermost first: a whole model says the same of its body
        for record in records(body, "router_logits"):
            for inner, part in body.named_modules():
                fits = record.layer_name is None or inner.endswith(record.layer_name)
                if isinstance(part, record.target_class) and fits and id(part) not in seen:
                    seen.add(id(part))
                    yield Router(f"{name}.{inner}".removeprefix("."), part, record.index, body)


def masked(heard: Heard, batch: Mapping[str, Any]) -> Any:
    """A hook before a body: which positions of its batch are tokens."""

    def begin(body: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        mask = given.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            documents, mask = batch.get("documents"), batch.get("attention_mask")
            mask = documents >= 0 if documents is not None else mask
        heard.masks[id(body)] = mask

    return begin


def coefficient(config: PretrainedConfig) -> float:
    """What a router's loss counts for by a model's config; 0 where it says nothing."""
    return next((weight for name in COEFFICIENTS if (weight := weight_in(config, name))), 0.0)


def weight_in(config: Any, name: str) -> float:
    """A weight of a loss in a config, or in that of its feed-forward parts (DBRX)."""
    if name == "router_aux_loss_coef" and hasattr(config, "ffn_config"):
        return float(getattr(config.ffn_config, "moe_loss_weight", None) or 0.0)
    return float(getattr(config, name, None) or 0.0)


def number(config: Any, names: tuple[str, ...]) -> int:
    """The first of some fields that a config has; 1 where it has none of them (Switch's token goes to one expert)."""
    return next((value for name in names if type(value := getattr(config, name, None)) is int), 1)
