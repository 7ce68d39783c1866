"""What there is to name: models, recipes and plug-ins, `llmkit methods` and the like; and `schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmkit.cli import completion
from llmkit.system import terminal
from llmkit.system.language import translate

if TYPE_CHECKING:
    from llmkit.recipe.registry import Kind

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

SCHEMA = "llmkit.schema.json"
"""What `recipes copy` leaves beside a recipe, for editors."""

models_app = typer.Typer(
    rich_markup_mode=None, invoke_without_command=True,
    help="Models that llmkit knows by a short name; lists them where nothing else is asked for.")
recipes_app = typer.Typer(
    rich_markup_mode=None, invoke_without_command=True,
    help="Recipes that llmkit brings; lists them where nothing else is asked for.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models_app, name="models")
    app.add_typer(recipes_app, name="recipes")
    for command in (methods, tasks, objectives, families, optimizers, schema):
        app.command()(command)


@models_app.callback()
def models_alone(context: typer.Context, json_: Json = False) -> None:
    """The list, where no command follows."""
    if context.invoked_subcommand is None:
        models_list(json_)


@models_app.command("list")
def models_list(json_: Json = False) -> None:
    """Names, where each model comes from, and whether it is here already."""
    from llmkit import models

    rows = [{"name": entry.name, "hub": entry.hub, "wheel": entry.wheel, "licence": entry.licence, "about": entry.about,
             "cached": str(models.cached(entry.name) or "") or None} for entry in models.CATALOGUE.values()]
    if json_:
        print(json.dumps(rows))
        return
    for row in rows:
        here = "here" if row["cached"] else "wheel" if row["wheel"] else "hub"
        terminal.out(f"{row['name']:<24}{here:<7}{translate(str(row['about']))}")


@models_app.command("pull")
def models_pull(
    name: Annotated[str, typer.Argument(
        metavar="NAME", autocompletion=completion.models, help="A name from the list, or a hub id.")],
) -> None:
    """Bring a model into the cache, so that later commands need no network."""
    from llmkit import models
    from llmkit.system import report

    report.to_stderr()
    terminal.out(models.pull(name))


@models_app.command("convert")
def models_convert(
    name: Annotated[str, typer.Argument(
        metavar="FOLDER|ID", autocompletion=completion.models, help="A folder with pickled weights, or a hub id.")],
    to: Annotated[Path | None, typer.Option(
        "--to", metavar="DIR", help="Where the model is put; the folder itself where nothing is said.")] = None,
    revision: Annotated[str | None, typer.Option(
        "--revision", metavar="NAME", help="Of a hub's model: a branch, a tag or a commit.")] = None,
) -> None:
    """Write pytorch_model.bin as safetensors, and bert_config.json as config.json: no code of a pickle is run."""
    from llmkit.models.changing.converting import convert
    from llmkit.system import report

    report.to_stderr()
    terminal.out(convert(name, to, revision))


@recipes_app.callback()
def recipes_alone(context: typer.Context, json_: Json = False) -> None:
    """The list, where no command follows."""
    if context.invoked_subcommand is None:
        recipes_list(json_)


@recipes_app.command("list")
def recipes_list(json_: Json = False) -> None:
    """Packaged recipes, each with its first line."""
    from llmkit import recipe

    _show({name: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
           for name, path in recipe.packaged().items()}, json_)


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.recipes)]) -> None:
    """Print a recipe."""
    from llmkit import recipe

    terminal.out(recipe.find(name).read_text(encoding="utf-8"), end="")


@recipes_app.command("copy")
def recipes_copy(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=completion.recipes)],
    place: Annotated[
        Path, typer.Argument(metavar="[PATH]", help="A folder or a file; here where nothing is said.")] = Path(),
) -> None:
    """Copy a recipe, to change it; and, beside it, the JSON Schema by which an editor knows its fields."""
    from llmkit import recipe
    from llmkit.system.errors import PlaceError

    source = recipe.find(name)
    target = place / source.name if place.is_dir() else place
    if target.exists():
        raise PlaceError(f"{target}: exists already; name another file.")
    known = target.with_name(SCHEMA)
    ours = not known.exists() or _is_ours(known)
    line = f"# yaml-language-server: $schema=./{SCHEMA}\n" if ours else ""
    try:
        target.write_text(line + source.read_text(encoding="utf-8"), encoding="utf-8")
        if ours:
            known.write_text(json.dumps(recipe.schema(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise PlaceError(f"{error.filename or target}: {error.strerror}.") from error
    terminal.out(target)
    if ours:
        terminal.err(f"{known}: written beside it: the schema by which an editor knows the fields.")
    else:
        terminal.err(f"{known}: is a file of yours and is left as it is, so {target.name} names no schema.")


def _is_ours(path: Path) -> bool:
    """Whether a file is a schema that an earlier copy left."""
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(there, dict) and there.get("title") == "llmkit recipe"


def methods(json_: Json = False) -> None:
    """List the tuning methods: what `--method` and a recipe's `tuning` take."""
    _plugins("tuning", json_)


def tasks(json_: Json = False) -> None:
    """List the tasks: what `finetune --task` and a recipe's `task` take."""
    _plugins("tasks", json_)


def objectives(json_: Json = False) -> None:
    """List the objectives of pretraining: what a recipe's `objective` takes."""
    _plugins("objectives", json_)


def families(json_: Json = False) -> None:
    """List the families of models: what a recipe's `backbone.family` takes."""
    _plugins("backbones", json_)


def optimizers(json_: Json = False) -> None:
    """List the optimizers: what a recipe's `optimizer` takes."""
    _plugins("optimizers", json_)


def _plugins(kind: Kind, json_: bool) -> None:
    """Each plug-in of a kind with its module's first line; those of installed packages, which aren't imported, last."""
    from llmkit.recipe import registry

    others = {name: f"{' and '.join(point.value for point in points)}, of "
                    f"{' and '.join(registry.package_of(point) for point in points)}."
              for name, points in registry.installed(kind).items()}
    _show({**{name: registry.about(kind, name) for name in registry.names(kind)}, **others}, json_)


def _show(rows: dict[str, str], json_: bool) -> None:
    """Names, each with its line."""
    if json_:
        print(json.dumps(rows))
        return
    wide = max(24, *(len(name) + 1 for name in rows))
    for name, about in rows.items():
        terminal.out(f"{name:<{wide}}{translate(about)}")


def schema() -> None:
    """Print the JSON Schema of a recipe, every plug-in included, for editors."""
    from llmkit import recipe

    print(json.dumps(recipe.schema(), indent=1))
