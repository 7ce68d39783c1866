"""Fill in what the code says of itself: rows before and after, options, families. `make docs`, or with --check.

A page holds markers; what stands between a marker and its end is written by this script and by nobody else:

    <!-- row {"recipe": "masked_lm", "set": ["data.max_length=24"]} -->
    <!-- options masked_lm -->          <!-- families masked_lm -->         <!-- recipe bert_mlm -->
    <!-- plugins tuning -->             every file of llmkit/tuning/: what it is, its options
    <!-- parts fsdp -->                 what can lie in parts on several processes, and what is refused
    <!-- end -->
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
TEXT = {"english": DOCS / "english.txt", "chinese": DOCS / "chinese.txt"}
MARKER = re.compile(r"(<!-- (row|options|families|recipe|plugins|parts) (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """A page with every marked part written anew."""
    parts = {"row": row, "options": options, "families": families, "recipe": packaged, "plugins": plugins,
             "parts": in_parts}
    return MARKER.sub(lambda found: found[1] + parts[found[2]](found[3]) + "\n" + found[4], page)


def row(spec: str) -> str:
    """A row of the docs' own text, before and after; tokens are those of a tokenizer trained on that text."""
    from llmkit import recipe as recipes
    from llmkit.planning import inspect as inspection

    asked: dict[str, Any] = json.loads(spec)
    text = TEXT[asked.get("text", "english")]
    small = [f"data.train={text}", "data.validation=null", "backbone.size=tiny", "seed=1"]
    if asked.get("vocab_size", 500):
        small.append(f"tokenizer={{train: {{vocab_size: {asked.get('vocab_size', 500)}}}}}")
    found = inspection.inspect(recipes.load(asked["recipe"], [*small, *asked.get("set", [])]),
                               [asked.get("row", 0)], asked.get("times", 1))
    lines = ["```"]
    for one in found["drawn"]:
        head = f"row {one['row']}, pass {one['pass']}"
        lines += [head, *(f"  {name}: {words}" for name, words in one["shown"].items()
                          if name not in asked.get("leave", []))]
    return "\n".join([*lines, "```"])


def plugins(kind: str) -> str:
    """A section for each file of a folder: its own words, and its options."""
    import inspect

    from llmkit.recipe import registry

    out = []
    for name in registry.names(kind):
        cls = registry.find(kind, name)
        about = inspect.getdoc(inspect.getmodule(cls)) or ""
        out += [f"## `{name}`", "", about.partition("\n\n")[0].replace("\n", " "), "",
                " ".join((inspect.getdoc(cls) or "").split()), "", *(rows(cls) if kind == "tasks" else ()),
                *(rates(cls) if kind == "optimizers" else ()), options(name, kind), ""]
    return "\n".join(out).rstrip()


def rows(task: Any) -> list[str]:
    """A task's example, as a file has it."""
    return ["```json", *(json.dumps(row, ensure_ascii=False) for row in task.example), "```", ""]


def rates(optimizer: Any) -> list[str]:
    """An optimizer's usual rates, by the method full."""
    from llmkit.recipe import registry

    usual = registry.find("tuning", "full").learning_rate * optimizer().factor
    return [f"Usual rate: {10 * usual:g} from scratch, {usual:g} for pretrained weights.", ""]


def options(name: str, kind: str = "objectives") -> str:
    """A table of a plug-in's options, from its dataclass."""
    from llmkit import recipe
    from llmkit.recipe import registry

    cls = registry.find(kind, name)
    about = recipe.options_schema(cls)["properties"] if fields(cls) else {}
    lines = ["| option | default | |", "|---|---|---|"]
    for field in fields(cls):
        usual = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
        said = " ".join(about[field.name].get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{field.name}` | {shown(usual)} | {said} |")
    return "\n".join(lines) if fields(cls) else "It has no options."


def shown(value: Any) -> str:
    """A default as a recipe writes it."""
    return "none" if value is None else f"`{json.dumps(value, default=str)}`"


def families(name: str) -> str:
    """The families that can do an objective."""
    from llmkit.recipe import fits, registry

    learning = registry.find("objectives", name)()
    can = [f"`{one}`" for one in registry.names("backbones") if one != "auto"
           and fits(learning, registry.find("backbones", one))]
    return f"Families: {', '.join(can)}."


def packaged(name: str) -> str:
    """A packaged recipe."""
    from llmkit import recipe as recipes

    return f"```yaml\n{recipes.packaged()[name].read_text().rstrip()}\n```"


def in_parts(strategy: str) -> str:
    """A table of all plug-ins that a model in parts can have, and of the others with what a run says of them."""
    from llmkit import recipe as recipes
    from llmkit.planning import sharding
    from llmkit.recipe import registry

    lines = ["| | can lie in parts | refused (2) |", "|---|---|---|"]
    blocks = {"objectives": "objective", "tasks": "task", "tuning": "tuning", "optimizers": "optimizer"}
    for kind, block in blocks.items():
        can, cannot = list[str](), list[str]()
        for name in registry.names(kind):
            tree = {"backbone": {"pretrained": "any"}, "data": {"train": "a.txt"}, "objective": "causal_lm",
                    "training": {"distributed": {"strategy": strategy}}}
            tree = {key: value for key, value in tree.items() if (key, kind) != ("objective", "tasks")}
            asked = {"method" if kind == "tuning" else "name": name}
            why = sharding.why_not(recipes.with_optimizer(recipes.load({**tree, block: asked}))[0])
            said = why.partition(". ")[0].partition(" ")[2]  # `adalora looks at … . Use lora`
            (cannot if why else can).append(f"`{name}` {said}".strip())
        lines.append(f"| {kind} | {', '.join(can)} | {'; '.join(cannot) or 'none'} |")
    return "\n".join(lines)


def main() -> int:
    os.environ["LLMKIT_CACHE"] = tempfile.mkdtemp()  # whatever is cached elsewhere has no part in a page
    old = []
    for path in sorted(DOCS.rglob("*.md")):
        page = path.read_text()
        new = filled(page)
        if new != page:
            old.append(path)
            if "--check" not in sys.argv:
                path.write_text(new)
    said = "isn't what the code says; run make docs" if "--check" in sys.argv else "written"
    for path in old:
        print(f"{path.relative_to(DOCS.parent)}: {said}")
    return int(bool(old) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
