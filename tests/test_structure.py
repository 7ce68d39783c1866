"""The structure: imports point one way, and plug-ins load no heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "llmkit"
LAYERS = [["system"], ["recipe"], ["data"], ["backbones"], ["models"], ["objectives", "tuning", "prompting"], ["tasks"],
          ["planning"], ["training"], ["inference"], ["exporting"], ["serving"], ["cli"]]
RANK = {module: i for i, modules in enumerate(LAYERS) for module in modules}
UPWARD = {("models", "tuning"): "opens adapters of llmkit's own type where it meets one"}


FOR_MYPY = ROOT / "recipe" / "seams.py"
"""The one module that may name types of folders above, where only mypy reads: what a recipe's plug-ins are."""


def run(tree: ast.AST) -> Iterator[ast.AST]:
    """What Python runs of a module: all but what stands under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield node
            yield from run(node)


def imported(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    for node in run(tree) if path == FOR_MYPY else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llmkit":
            parts = (node.module or "").split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]


def test_imports_point_down() -> None:
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if here.startswith("__") or here == "registry":
            continue
        for other in imported(path):
            other = "recipe" if other == "registry" else other
            assert other == here or RANK[other] < RANK[here] or (here, other) in UPWARD, f"{path} imports {other}"


RUN_FILES = ("recipe.yaml", "metrics.jsonl", "summary.json", "bad_rows.txt", "README.md", "MANIFEST.json",
             "adapter_config.json", "adapter_model.safetensors")
RUN_FOLDERS = ("model", "checkpoints")


def texts(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings of a module that are no docstrings."""
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node


def joined(tree: ast.Module) -> Iterator[ast.Constant]:
    """The strings that are put after a folder, or compared with the name of one: `folder / "model"`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield node.right
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Attribute) and node.left.attr == "name":
            yield from (other for other in node.comparators if isinstance(other, ast.Constant))


def test_a_runs_layout_stands_in_one_module() -> None:
    for path in ROOT.rglob("*.py"):
        tree = ast.parse(path.read_text())
        if path == ROOT / "models" / "layout.py":
            assert set(RUN_FILES) | set(RUN_FOLDERS) <= {str(text.value) for text in texts(tree)}
            continue
        for text in texts(tree):
            assert not any(name in str(text.value) for name in RUN_FILES), f"{path}:{text.lineno}: {text.value}"
        for text in joined(tree):
            assert text.value not in RUN_FOLDERS, f"{path}:{text.lineno}: {text.value}"


READS_RECIPES = ["models/run.py", "training/run_folder.py"]


def test_a_runs_recipe_is_read_in_two_modules() -> None:
    reads = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py"))
             for line in path.read_text().splitlines() if ".load(" in line and "layout.RECIPE" in line]
    assert reads == READS_RECIPES


def test_a_module_opens_with_one_sentence() -> None:
    for path in ROOT.rglob("*.py"):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
        assert first.endswith((".", "?")), path


def test_plug_ins_load_no_heavy_library() -> None:
    code = """
import sys
from llmkit import registry
for kind in registry.KINDS:
    for name in registry.names(kind):
        registry.find(kind, name)
print([name for name in ("torch", "transformers", "peft", "datasets", "accelerate") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


CHANGES = {"add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse",
           "setdefault", "sort", "update"}
"""Methods that change a list, dict or set."""
HOLDS = {"logging.getLogger", "typer.Typer", "ContextVar"}
"""What may be made at module level though it changes: none of it decides what a run computes."""


def state(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) wherever a module changes what is bound at its top, or says `global`."""
    names = set()
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(
            node, ast.AnnAssign) and node.value else []
        if targets and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in HOLDS):
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmkit"):
            names |= {alias.asname or alias.name for alias in node.names if alias.name.isupper()}

    def held(node: ast.expr) -> bool:
        """CACHE, cache[...] of it, and other.CACHE."""
        if isinstance(node, ast.Subscript):
            return held(node.value)
        return node.attr.isupper() if isinstance(node, ast.Attribute) else (
            isinstance(node, ast.Name) and node.id in names)

    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            yield node.lineno, ", ".join(node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
            if held(node.func.value):
                yield node.lineno, ast.unparse(node.func)
        elif isinstance(node, ast.Assign | ast.Delete | ast.AugAssign | ast.AnnAssign):
            into = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            bare = isinstance(node, ast.AugAssign)
            yield from ((node.lineno, ast.unparse(target)) for target in into
                        if (isinstance(target, ast.Subscript | ast.Attribute) and held(target.value))
                        or (bare and held(target)))


def test_no_module_keeps_state_that_changes() -> None:
    """A ContextVar, an argument or an object: what one run, thread or test does is no affair of the next."""
    found = [f"{path.relative_to(ROOT)}:{line}: {name}" for path in ROOT.rglob("*.py")
             for line, name in state(ast.parse(path.read_text()))]
    assert not found, found


@pytest.mark.parametrize("code", [
    "_on = set()\ndef turn(name):\n    _on.add(name)", "KEPT = {}\ndef keep(name):\n    KEPT[name] = 1",
    "kept = 0\ndef count():\n    global kept\n    kept += 1", "from llmkit.data.sources import FORMATS\nFORMATS |= {}",
    "from llmkit.data import sources\nsources.FORMATS['.x'] = 'text'"])
def test_state_of_a_module_is_found(code: str) -> None:
    assert list(state(ast.parse(code)))


ELSEWHERE = {
    "_fingerprint": "datasets 5.2",  # data knows no kernels
    "_attn_implementation": "transformers 5.23", "_experts_implementation": "transformers 5.23",
    "_prefill": "transformers 5.23", "_supports_default_dynamic_cache": "transformers 5.23",
    "_update_model_kwargs_for_generation": "transformers 5.23",
    "_is_mkldnn_bf16_supported": "torch 2.13", "_modules": "torch 2.13", "_parameters": "torch 2.13",
}
"""Private names of other libraries that stand outside kernels/, each with the version that it was seen in."""
PUBLIC = {"_asdict", "_exit", "_replace"}
"""Names of Python's own that are documented."""


def privates(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of what a module takes from another that has it to itself; its own classes' parts aren't meant."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of = node.value.id if isinstance(node.value, ast.Name) else ""
            if of not in ("self", "cls") and node.attr not in own | PUBLIC:
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("llmkit", "__")):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if name.startswith("_"))


def test_private_names_of_other_libraries_stand_in_kernels_alone() -> None:
    found = []
    for path in ROOT.rglob("*.py"):
        short = path.relative_to(ROOT.parent).as_posix()
        if not short.startswith("llmkit/backbones/kernels/"):
            found += [f"{short}:{line}: {name}" for line, name in privates(ast.parse(path.read_text()))
                      if name not in ELSEWHERE]
    assert not found, found


TWICE = {"Adapter", "Asked", "Decoder", "Encoded", "Encoder", "Engine", "Full", "Layout", "Outcome", "Part", "Place",
         "Prefix", "Prompt", "Reader", "Reading", "Rows", "Table", "Text", "Window", "Writer", "Writing", "_Piece"}
"""Names that still stand for two classes; no more are to come."""


def test_no_two_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    twice = {name: where for name, where in places.items() if len(where) > 1 and name not in TWICE}
    assert not twice, twice
