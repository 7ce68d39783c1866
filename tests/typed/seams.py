"""What mypy must refuse where plug-ins meet the rest, and what it must take; `make check` runs it, nothing else does.

Each refused line has its error in an `ignore`. Were a seam `Any` again, the `ignore` would be unused, and that is an
error too: this file can't pass by saying nothing.
"""

from llmkit.objectives.base import Objective
from llmkit.prompting.base import Prompting
from llmkit.recipe import Recipe
from llmkit.recipe.seams import Answering, Learning, Method, PromptMode
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
