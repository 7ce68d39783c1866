"""What mypy must refuse where plug-ins meet the rest, and what it must take; `make check` runs it, nothing else does.

Each refused line has its error in an `ignore`. Were a seam `Any` again, the `ignore` would be unused, and that is an
error too: this file can't pass by saying nothing.
"""

from llmkit.data.batches import Batch
from llmkit.objectives.base import Objective, Sums
from llmkit.prompting.base import Prompting
from llmkit.recipe import Recipe, registry
from llmkit.recipe.seams import Answering, Learning, Method, PromptMode, Shaped
from llmkit.tasks.base import Task
from llmkit.training.learner import Learner
from llmkit.tuning.base import Tuning


def base_classes_keep_the_promises(
    objective: Objective, task: Task, method: Tuning, mode: Prompting,
) -> tuple[Learning, Answering, Method, PromptMode]:
    return objective, task, method, mode


def a_recipe_has_no_method_that_plug_ins_lack(recipe: Recipe) -> None:
    recipe.tuning.no_such_method(1)  # type: ignore[attr-defined]
    recipe.learning.no_such_method(1)  # type: ignore[attr-defined]
    assert recipe.objective is not None and recipe.task is not None and recipe.prompting is not None
    recipe.objective.no_such_method(1)  # type: ignore[attr-defined]
    recipe.task.no_such_method(1)  # type: ignore[attr-defined]
    recipe.prompting.no_such_method(1)  # type: ignore[attr-defined]


def what_is_asked_of_a_task_is_not_asked_of_every_objective(recipe: Recipe, learner: Learner) -> None:
    recipe.learning.predict  # type: ignore[attr-defined]  # noqa: B018
    learner.objective.floors([], [])  # type: ignore[attr-defined]


def arguments_are_checked_too(recipe: Recipe) -> None:
    recipe.tuning.packs("bert")  # type: ignore[arg-type]
    recipe.learning.turn("first")  # type: ignore[arg-type]
    recipe.learning.pace(1) + ""  # type: ignore[operator]


def a_plug_in_that_is_found_by_name_has_its_kinds_type() -> None:
    registry.find("tuning", "lora")().no_such_method(1)  # type: ignore[attr-defined]
    registry.find("objectives", "masked_lm")().floors([], [])  # type: ignore[attr-defined]
    registry.find("tasks", "tagging")().no_such_method(1)  # type: ignore[attr-defined]
    registry.find("prompting", "cloze")().no_such_method(1)  # type: ignore[attr-defined]
    registry.find("backbones", "bert").no_such_part  # type: ignore[attr-defined]  # noqa: B018
    registry.find("backbones", "bert").position_limit("config")  # type: ignore[arg-type]
    registry.find("tuning", "lora")().after_step("model", 1)  # type: ignore[arg-type]
    registry.find("objectives", "causal_lm")().worded(1)  # type: ignore[arg-type]


def a_kind_has_the_name_of_a_folder() -> None:
    registry.find("tunings", "lora")  # type: ignore[call-overload]
    registry.find("objective", "masked_lm")  # type: ignore[call-overload]
    registry.find("tuning", 1)  # type: ignore[call-overload]
    registry.names("task")  # type: ignore[arg-type]
    registry.about("families", "bert")  # type: ignore[arg-type]
    registry.KINDS["method"]  # type: ignore[index]


def a_found_plug_in_goes_where_its_kind_is_wanted() -> tuple[Method, Learning, Answering, PromptMode, Shaped]:
    return (registry.find("tuning", "lora")(r=4), registry.find("objectives", "masked_lm")(),
            registry.find("tasks", "tagging")(), registry.find("prompting", "cloze")(k=1),
            registry.find("backbones", "t5"))


def no_kind_is_taken_for_another() -> tuple[Method, Answering]:
    return registry.find("tasks", "tagging")(), registry.find("objectives", "masked_lm")()  # type: ignore[return-value]


def a_learner_says_what_it_was_asked_for(learner: Learner, batch: Batch) -> tuple[Sums, list[list[float]]]:
    learner(batch).append(1)  # type: ignore[attr-defined]
    learner(batch, "judge").keys()  # type: ignore[attr-defined]
    learner(batch, "predict").keys()  # type: ignore[attr-defined]
    learner(batch, "represent").keys()  # type: ignore[attr-defined]
    learner(batch, "lose")  # type: ignore[call-overload]
    learner(["input_ids"], "loss")  # type: ignore[call-overload]
    sums, outcomes = learner(batch, "judge")
    outcomes.keys()  # type: ignore[attr-defined]
    return sums, learner(batch, "refer")
