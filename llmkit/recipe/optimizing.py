"""Which optimizer a recipe has that names none: adamw where its options are given, else the family's usual one."""

from dataclasses import replace
from typing import Any

from llmkit.recipe import registry
from llmkit.recipe.fields import Recipe

ADAMW = {"adam_beta1": "betas", "adam_beta2": "betas", "adam_epsilon": "eps"}
"""The fields of `training` that are adamw's options, and what these are called in its block."""


def of_adamw(recipe: Recipe) -> list[str]:
    """The fields of `training` that are adamw's options and are given."""
    return [name for name in ADAMW if getattr(recipe.training, name) is not None]


def usual(recipe: Recipe) -> tuple[str, str]:
    """(name, why) of the optimizer of a recipe that names none."""
    spec = recipe.backbone
    if given := of_adamw(recipe):
        return "adamw", f"training.{given[0]} is an option of it"
    if spec.pretrained is None and spec.family is not None and recipe.tuning.whole:
        name: str = registry.find("backbones", spec.family).optimizer
        return name, f"the usual one of a {spec.family} from scratch"
    return "adamw", "the usual one"


def with_optimizer(recipe: Recipe, name: str | None = None) -> tuple[Recipe, str]:
    """(a recipe that names its optimizer, why it is that one); `name`: what it is where the recipe doesn't say.

    adamw's options of `training` move into its block.
    """
    found: Any = recipe.optimizer
    why = ""
    if found is None:
        chosen, why = usual(recipe)
        found = registry.find("optimizers", name or chosen)()
    plan, given = recipe.training, of_adamw(recipe)
    if given and registry.name_of(found) == "adamw":
        first, second = found.betas
        found = replace(
            found, betas=(first if plan.adam_beta1 is None else plan.adam_beta1,
                          second if plan.adam_beta2 is None else plan.adam_beta2),
            eps=found.eps if plan.adam_epsilon is None else plan.adam_epsilon)
        plan = replace(plan, adam_beta1=None, adam_beta2=None, adam_epsilon=None)
    return replace(recipe, optimizer=found, training=plan), why
