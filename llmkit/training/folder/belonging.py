"""What a checkpoint belongs to: its recipe, the model and the tokenizer below it, the versions that wrote it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit import recipe as recipes
from llmkit.data import tokenizer_files
from llmkit.data.sources import Reader
from llmkit.models import layout
from llmkit.models.base import Base
from llmkit.models.fetch import commit_of, resolve_tokenizer
from llmkit.planning.settle import SCHEDULES_WITHOUT_END, Settled
from llmkit.recipe import LENGTHS, Recipe, registry
from llmkit.system import machine
from llmkit.system.errors import CheckpointError, RequestError
from llmkit.training.folder.run_folder import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger("llmkit")

PACKAGES = ("llmkit", "torch", "transformers", "tokenizers", "accelerate", "peft", "numpy")
"""Whose versions decide what a step computes."""
BASE = (layout.CONFIG, "generation_config.json", "*.safetensors", "*.safetensors.index.json", "modules.json",
        "*/config.json")
"""Files that say which model a pretrained one is: its config, its weights, how it pools."""
TOKENIZER = (*tokenizer_files.FILES, tokenizer_files.MERGES, "special_tokens_map.json", "added_tokens.json",
             "chat_template.json", "*.jinja", "*.tiktoken")
"""Files that say which tokenizer one is."""

Difference = Mapping[str, tuple[Any, Any]]
"""Where two recipes differ: (ours, theirs) by field."""


# ---- the recipe ----


def is_longer(recipe: Recipe, differ: Difference) -> bool:
    """Whether a recipe differs only by a greater length that its schedule doesn't depend on."""
    plan = recipe.training
    free = plan.lr_scheduler_type in SCHEDULES_WITHOUT_END and (plan.warmup_steps >= 1 or not plan.warmup_steps)
    free = free and not recipe.tuning.counted
    return free and all(
        name.removeprefix("training.") in LENGTHS and ours is not None and theirs is not None and ours > theirs
        for name, (ours, theirs) in differ.items())


def length_of(recipe: Recipe) -> dict[str, float]:
    """How long a recipe asks a run to be: {"max_steps": 300}"""
    return {name: value for name in LENGTHS if (value := getattr(recipe.training, name)) is not None}


def unlike(differ: Difference, request: Recipe, recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """The differences that forbid to go on; empty where there are none, or only a greater length.

    `request` is the recipe as it was given, `recipe` the one in which nothing is left open.
    """
    left = dict(differ)
    if request.training.micro_batch_size == "auto":
        left.pop("training.micro_batch_size", None)
    if left.get("training.compile") == (False, "auto"):  # left by a version that knew no such field
        del left["training.compile"]
    way = "backbone.attn_implementation"
    if request.backbone.attn_implementation == "auto" and way in left and left[way][1] == "auto":
        del left[way]  # likewise
    return {} if is_longer(recipe, left) else left


def in_words(differ: Difference) -> str:
    """`seed is 7, there 42; objective.name is prefix_lm, there causal_lm`"""
    return "; ".join(f"{name} is {ours}, there {theirs}" for name, (ours, theirs) in differ.items())


def asked_for(start: Checkpoint) -> dict[str, Any] | None:
    """The recipe that a checkpoint was saved for, as plain data; None where an older version noted none."""
    said = start.manifest.get("recipe")
    return None if said is None else dict(said)


def check_recipe(start: Checkpoint, request: Recipe, recipe: Recipe) -> None:
    """CheckpointError where a checkpoint was saved for another recipe, with what differs."""
    tree = asked_for(start)
    if tree is None:
        return
    if differ := unlike(differences(start, tree, recipe), request, recipe):
        raise of_another(start, differ)


def of_another(start: Checkpoint, differ: Difference) -> CheckpointError:
    """The error for a checkpoint of another recipe's run, with what differs."""
    return CheckpointError(f"{start.folder} is of another recipe's run ({in_words(differ)}). Ask for what it was, or "
                           "start a new run from its model: backbone.pretrained.")


def differences(start: Checkpoint, tree: Mapping[str, Any], recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Where a recipe differs from the one that stands in a checkpoint.

    Plug-ins are compared by their names first: a stranger's manifest may name a module, and none is imported for it
    that the recipe doesn't name too.
    """
    recipe, tree = recipes.with_optimizer(recipe)[0], {"optimizer": "adamw", **tree}
    ours, found = recipes.tree_of(recipe), dict[str, tuple[Any, Any]]()
    for block, (_, key) in recipes.BLOCKS.items():
        mine, theirs = (part.get(key) if isinstance(part, Mapping) else part
                        for part in (ours.get(block), tree.get(block)))
        if mine != theirs:
            found[f"{block}.{key}"] = mine, theirs
    if found:
        return found
    try:
        return recipes.differences(recipe, recipes.with_optimizer(recipes.load(tree))[0])
    except RequestError as error:
        raise CheckpointError(f"{start.folder / layout.MANIFEST}: its recipe can't be read: {error}") from error


def optimizer_in(tree: Mapping[str, Any]) -> str:
    """The name of the optimizer in a recipe as plain data; 0.1.0 had no other than adamw."""
    block = tree.get("optimizer") or "adamw"
    return str(block.get("name") if isinstance(block, Mapping) else block)


def check_optimizer(start: Checkpoint, recipe: Recipe) -> None:
    """CheckpointError where what a checkpoint holds is another optimizer's: an older one names no recipe."""
    before, now = optimizer_in(asked_for(start) or {}), registry.name_of(recipe.rule)
    if before != now:
        raise CheckpointError(f"{start.folder}: its optimizer is {before}, and this recipe's is {now}. "
                              f"`optimizer: {before}` goes on from it.")


# ---- what it learns from ----


def data_of(readers: Sequence[Reader]) -> dict[str, str]:
    """What tells the data of a run from any other: fingerprints of the sources, by what the recipe calls them."""
    found = {reader.label: reader.content() for reader in readers}
    return found | {f"data.augment {reader.swaps.path}": reader.swaps.digest for reader in readers if reader.swaps}


def changed_data(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The names of the sources that aren't what they were: `a.txt, b.txt`; "" where all are."""
    return ", ".join(name for name, fingerprint in now.items() if then.get(name) != fingerprint)


# ---- what is below it, and who wrote it ----


def foundation(settled: Settled, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a run stands on, for its manifests: hashes of base and tokenizer, and the versions of what computes.

    A hub's commit stands for its files.
    """
    asked, base = settled.recipe.tokenizer, settled.base
    found: dict[str, Any] = {"versions": versions()}
    if base is not None:
        found["base"] = _content(base.folder, BASE)
    if asked is not None and asked.pretrained is not None:
        found["tokenizer"] = _content(resolve_tokenizer(asked.pretrained), TOKENIZER)
    elif asked is not None or base is None:
        found["tokenizer"] = {"its vocabulary": vocabulary(tokenizer)}
    else:
        found["tokenizer"] = _content(base.folder, TOKENIZER)
    if settled.teacher is not None:
        found["teacher"] = teacher_in(settled.teacher)
    return found


def teacher_in(teacher: Base) -> dict[str, str]:
    """What tells a teacher from another: its files, and of an adapter those of the model below."""
    found = _content(teacher.folder, (*BASE, layout.ADAPTER))
    below = _content(teacher.below.folder, BASE) if teacher.is_adapter else {}
    return {**found, **{f"base: {name}": value for name, value in below.items()}}


def _content(place: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    commit = commit_of(place)
    return hashes(place, patterns) if commit is None else {"commit": commit}


def versions() -> dict[str, str]:
    """The versions of what decides the numbers of a run."""
    return {name: there for name in PACKAGES if (there := machine.installed(name)) is not None}


def hashes(place: Path, patterns: tuple[str, ...]) -> dict[str, str]:
    """SHA-256 (hex) of the files of a folder that patterns name, by their paths in it; or of a file, by its name."""
    files = [(place, place.name)] if place.is_file() else _files(place, patterns)
    found = {}
    for path, name in files:
        with path.open("rb") as file:
            found[name] = file_digest(file, "sha256").hexdigest()
    return dict(sorted(found.items()))


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    for pattern in patterns:
        yield from ((path, path.relative_to(folder).as_posix()) for path in folder.glob(pattern) if path.is_file())


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 (hex) of a tokenizer's tokens with their ids, and of its merges; whatever version writes its files."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model = {} if backend is None else json.loads(backend.to_str())["model"]
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return sha256(json.dumps([words, model.get("merges")]).encode()).hexdigest()


def check_foundation(start: Checkpoint, now: Mapping[str, Any], recipe: Recipe) -> None:
    """CheckpointError where base or tokenizer aren't what they were when a checkpoint was saved.

    `now` is what `foundation` finds. Versions that are others are said, and the run goes on.
    """
    said = start.manifest
    if "versions" not in said:
        log.info("%s: saved by a version of llmkit that noted no hashes of base and tokenizer; they aren't compared",
                 start.folder)
        return
    names = {"base": ("backbone.pretrained", recipe.backbone.pretrained),
             "tokenizer": ("tokenizer", recipe.tokenizer.pretrained if recipe.tokenizer is not None
                           else recipe.backbone.pretrained),
             "teacher": ("teacher.model", None if recipe.teacher is None else recipe.teacher.model)}
    for kind, (field, name) in names.items():
        then, here = said.get(kind) or {}, now.get(kind) or {}
        if then != here:
            changed = [part for part in {**then, **here} if then.get(part) != here.get(part)]
            raise CheckpointError(
                f"{start.folder}: {field}{f': {name}' if name else ''} has changed since it was saved "
                f"({', '.join(changed)}). Put back what it was, or choose another --output-dir.")
    other = [f"{name} {now['versions'].get(name, 'none')}, then {said['versions'].get(name, 'none')}"
             for name in {**said["versions"], **now["versions"]}
             if said["versions"].get(name) != now["versions"].get(name)]
    if other:
        log.warning("%s was saved with other versions (%s): going on; the last digits may differ", start.folder,
                    "; ".join(other))
