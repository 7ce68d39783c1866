"""AdaLoRA: products with singular values, of which the least important are dropped on the way (Zhang et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.backbones.base import Family
from llmkit.recipe.registry import OPTIONS
from llmkit.system.errors import RequestError
from llmkit.tuning.base import Setting, Tuning
from llmkit.tuning.shared import adapter

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


@dataclass(config=OPTIONS)
class AdaLora(Tuning):
    """peft's AdaLoRA: P Λ Q beside each layer, its ranks cut from init_r to target_r on average as the run goes on.

    It starts as the base model itself, for Λ is 0. Ranks stay whole for `tinit` steps, are cut every `deltaT` steps
    along a cubic curve, and stay as they are for the last `tfinal`. Steps are the optimizer's, from 1.
    """

    learning_rate = 1e-3
    counted = True
    shards = False

    target_r: Annotated[int, Field(ge=1)] = 8
    """Average rank at the end."""
    init_r: Annotated[int, Field(ge=2)] = 12
    """Rank of each layer at the start."""
    tinit: Annotated[int, Field(ge=0)] | None = None
    """Steps before the first cut; by default a tenth of the run."""
    tfinal: Annotated[int, Field(ge=0)] | None = None
    """Steps after the last cut; by default half of the run."""
    deltaT: Annotated[int, Field(ge=1)] = 1
    """Steps from one cut to the next."""
    beta1: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """How slowly the sensitivity of a weight is averaged."""
    beta2: Annotated[float, Field(gt=0, lt=1)] = 0.85
    """How slowly its uncertainty is."""
    orth_reg_weight: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the penalty that keeps P and Q orthogonal; it is added to each step's loss, not to the figures."""
    lora_alpha: Annotated[int, Field(ge=1)] = 16
    """What the product is scaled by, over init_r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the product."""
    target_modules: list[str] | str | None = None
    """Names of layers, a regular expression that matches whole dotted names, or `all-linear`; else peft's choice."""

    def check(self, family: type[Family], head: str) -> None:
        """Where peft knows no layers for a family, they have to be named; there must be ranks to cut."""
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as KNOWN

        adapter.check(self.target_modules, family, KNOWN)
        if self.target_r >= self.init_r:
            raise RequestError(f"tuning.target_r: {self.target_r} must be less than init_r, {self.init_r}; for a fixed "
                               "rank use lora.")

    def check_parts(self, make: Callable[[], PreTrainedModel], setting: Setting) -> None:
        """The layers that are named are there."""
        adapter.check_named(self.target_modules, make, setting.family)

    def describe(self) -> str:
        """`rank 12 to 8 on q_proj, v_proj`."""
        return f"rank {self.init_r} to {self.target_r}{adapter.where(self.target_modules)}"

    def apply(self, model: PreTrainedModel, setting: Setting) -> PreTrainedModel:
        """A PeftModel around the model: the products, the parts that are new, and the heads peft knows train."""
        from peft import AdaLoraConfig
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_ADALORA_TARGET_MODULES_MAPPING as KNOWN

        if setting.steps is None:
            raise RequestError("tuning.method: adalora plans its steps ahead; say how long the run is by "
                               "training.max_steps or training.num_train_epochs.")
        first = setting.steps // 10 if self.tinit is None else self.tinit
        last = min(setting.steps // 2, setting.steps - 2) if self.tfinal is None else self.tfinal
        if setting.steps - last < max(2, first + 1):  # a cut goes by what the steps before it measured
            raise RequestError(f"tuning.tinit: {first} steps before the first cut and {last} after the last (tfinal) "
                               f"leave none of the run's {setting.steps} to cut in; make them fewer.")
        return adapter.wrap(model, AdaLoraConfig(
            target_r=self.target_r, init_r=self.init_r, tinit=first, tfinal=last, deltaT=self.deltaT, beta1=self.beta1,
            beta2=self.beta2, orth_reg_weight=self.orth_reg_weight, total_step=setting.steps,
            lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout, fan_in_fan_out=adapter.transposed(model),
            target_modules=adapter.targets(model, self.target_modules, setting.family, KNOWN)), setting)

    def penalty(self, model: PreTrainedModel) -> Tensor | None:
        """How far P and Q are from orthogonal (eq. 4): peft adds it only where a model computes its own loss.

        The mean over all matrices of |PᵀP - 1| and |QQᵀ - 1|, as peft has it; the paper squares and sums them.
        """
        import torch

        if not self.orth_reg_weight:
            return None
        products = [weight @ weight.T if kind == "lora_A" else weight.T @ weight
                    for _, kind, weight in matrices(model) if kind != "lora_E"]
        far = [torch.linalg.matrix_norm(product - torch.eye(len(product), device=product.device))
               for product in products]
        return self.orth_reg_weight * torch.stack(far).mean()

    def after_step(self, model: PreTrainedModel, step: int) -> None:
        """Note how sensitive the loss is to each weight, and cut the ranks that matter least (algorithm 1).

        In fp16 steps may have been skipped: the last cut is made up for in the first step behind it.
        """
        import torch

        tuner: Any = model.base_model
        for _, _, weight in matrices(model):
            if weight.grad is None:  # of a layer that this loss doesn't read
                weight.grad = torch.zeros_like(weight)
        plan, allocator = tuner.peft_config["default"], tuner.rankallocator
        last, measured = plan.total_step - plan.tfinal, bool(allocator.exp_avg_ipt)  # none any more behind the last cut
        if step >= last and (measured or not plan.rank_pattern):
            if not measured:
                allocator.update_ipt(tuner.model)
            step = last
        tuner.update_and_allocate(step)

    def state(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """Averages of sensitivity and uncertainty, and which singular values are kept."""
        import torch

        tuner: Any = model.base_model
        allocator, kept = tuner.rankallocator, tuner.peft_config["default"].rank_pattern or {}
        return {
            **{f"sensitivity.{name}": value for name, value in allocator.exp_avg_ipt.items()},
            **{f"uncertainty.{name}": value for name, value in allocator.exp_avg_unc.items()},
            **{f"kept.{name}": torch.tensor(values, dtype=torch.bool) for name, values in kept.items()}}

    def restore(self, model: PreTrainedModel, state: dict[str, Tensor]) -> None:
        """Put back the averages and the singular values that are kept."""
        import torch

        tuner: Any = model.base_model
        allocator, weights = tuner.rankallocator, dict(tuner.model.named_parameters())
        kept: dict[str, list[bool]] = {}
        for key, value in state.items():
            what, _, name = key.partition(".")
            if what == "kept":
                kept[name] = value.tolist()
                continue
            averages = allocator.exp_avg_ipt if what == "sensitivity" else allocator.exp_avg_unc
            averages[name] = value.to(weights[name].device)
            allocator.ipt[name] = torch.zeros_like(weights[name])  # computed anew each step
        tuner.peft_config["default"].rank_pattern = kept or None

    def save(self, model: PreTrainedModel, folder: Path) -> None:
        """Write an adapter that peft opens, without the singular values that are 0.

        So it fits the weights, be they the last or the best on the way.
        """
        tuner: Any = model.base_model
        tuner.peft_config["default"].rank_pattern = {
            name: (weight != 0).view(-1).tolist() for name, kind, weight in matrices(model) if kind == "lora_E"}
        adapter.save(model, folder)


def matrices(model: Any) -> Iterator[tuple[str, str, nn.Parameter]]:
    """(name, kind, weight) of every P (lora_B), Λ (lora_E) and Q (lora_A), by the allocator's names."""
    for name, weight in model.base_model.model.named_parameters():
        kind = name.removesuffix(".default").rpartition(".")[2]
        if kind in ("lora_A", "lora_B", "lora_E"):
            yield name, kind, weight
