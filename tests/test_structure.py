"""The structure: imports point one way, and plug-ins load no heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1] / "llmkit"
LAYERS = [["system"], ["recipe"], ["data"], ["models", "backbones"], ["objectives", "tuning", "prompting"], ["tasks"],
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
