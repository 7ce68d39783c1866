"""The structure: folders in order, names that don't lie, and plug-ins that load no heavy library."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "llmkit"
FLOORS = ["system", "recipe", "data figures", "backbones", "models", "objectives tuning prompting optimizers", "tasks",
          "planning", "training", "inference", "exporting", "serving", "cli"]
"""The folders, from the ground up: a folder imports from those below it; of those of one floor, none from another."""
FLOOR = {folder: i for i, folders in enumerate(FLOORS) for folder in folders.split()}
FILES = {"__init__.py", "__main__.py", "py.typed", "registry.py"}
PLUG_INS = {"backbones", "objectives", "tasks", "tuning", "prompting", "optimizers"}
"""Folders where each file is a plug-in: they may be long lists."""
SEAMS = ROOT / "recipe" / "seams.py"
"""The one module that may name types of the folders above it, for type checkers only."""
MODULES = sorted(ROOT.rglob("*.py"))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    """`llmkit.data.tokens` of its file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folder_of(path: Path) -> str:
    """The folder of the root that a file is in; "" for files of the root itself."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def checking_only(module: ast.Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING:`."""
    return {inner for node in ast.walk(module) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for below in node.body for inner in ast.walk(below)}


def at_once(module: ast.Module) -> ast.Module:
    """A module without the bodies of its functions: what is done when it is loaded. The module itself is changed."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = []
    return module


def imports(module: ast.Module) -> Iterator[tuple[ast.ImportFrom, str, str]]:
    """(statement, module, name) of everything that is imported from llmkit."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llmkit":
            yield from ((node, str(node.module), alias.name) for alias in node.names)


def test_the_root_holds_the_folders_and_four_files() -> None:
    """recipes/ and constraints.txt are put there by the wheel; a folder more is a decision: say it in FLOORS."""
    there = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert there - {"recipes", "constraints.txt"} == {*FLOOR, *FILES}
    assert len(there) <= 21


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_imports_point_down(path: Path) -> None:
    here = folder_of(path)
    if not here:
        return
    module = tree(path)
    hidden = checking_only(module) if path == SEAMS else set()
    for node, source, name in imports(module):
        parts = [*source.split("."), name]
        other = "recipe" if parts[1] == "registry" else parts[1]
        if node in hidden or other == here:
            continue
        assert other in FLOOR, f"{path}:{node.lineno} imports {source}.{name}, the root's own names"
        assert FLOOR[other] < FLOOR[here], f"{path}:{node.lineno} imports {source}: {other} isn't below {here}"


def test_modules_import_each_other_in_no_circle() -> None:
    """What is imported when a module is loaded; a function may import later."""
    files = {named(path): path for path in MODULES}
    needs: dict[str, set[str]] = defaultdict(set)
    for module, path in files.items():
        parsed = tree(path)
        later = checking_only(parsed)
        for node, source, name in imports(at_once(parsed)):
            if node not in later:
                needs[module].add(f"{source}.{name}" if f"{source}.{name}" in files else source)
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module):], module])
        if module not in done:
            for other in sorted(needs[module] - {module}):
                visit(other, (*trail, module))
            done.add(module)

    for module in sorted(files):
        visit(module, ())


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_what_begins_with_an_underscore_stays_in_its_folder(path: Path) -> None:
    for node, source, name in imports(tree(path)):
        private = [part for part in [*source.split("."), name] if part.startswith("_") and part != "__init__"]
        same = source.split(".")[1:2] == [folder_of(path)]
        assert same or not private, f"{path}:{node.lineno} imports {source}.{name}"


def test_modules_are_loaded_by_name_in_one_place() -> None:
    users = {named(path) for path in MODULES for node in ast.walk(tree(path))
             if isinstance(node, ast.Name | ast.Attribute) and "import_module" in ast.unparse(node)}
    assert users <= {"llmkit", "llmkit.recipe.registry"}


def is_plug_in(path: Path) -> bool:
    """Whether a recipe names the module: what its class is called, its folder and its file say first."""
    return path.parent.parent == ROOT and path.parent.name in PLUG_INS and path.name != "base.py"


def test_no_two_modules_have_a_class_of_one_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in MODULES:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef) and path != SEAMS and not is_plug_in(path):
                places[node.name].append(named(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES} - {ROOT}), ids=lambda path: path.name)
def test_a_folder_is_seen_at_a_glance(folder: Path) -> None:
    """About fifteen files; folders of plug-ins are lists."""
    if folder.parent == ROOT and folder.name in PLUG_INS:
        return
    assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 16


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_long_module_says_why(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 500 or "one file because" in (ast.get_docstring(tree(path)) or "")


def test_a_run_fits_on_a_page() -> None:
    fit = next(node for node in tree(ROOT / "training" / "fit.py").body
               if isinstance(node, ast.FunctionDef) and node.name == "fit")
    assert (fit.end_lineno or 0) - fit.lineno < 60


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_opens_with_one_sentence(path: Path) -> None:
    first = (ast.get_docstring(tree(path)) or "").partition("\n")[0]
    assert first.endswith((".", "?"))


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


RUN_FILES = ("recipe.yaml", "metrics.jsonl", "summary.json", "bad_rows.txt", "README.md", "MANIFEST.json",
             "loss.png", "loss.dark.png", "report.html", "samples.jsonl",
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


READS_RECIPES = ["models/run.py", "training/folder/run_folder.py"]


def test_a_runs_recipe_is_read_in_two_modules() -> None:
    reads = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.rglob("*.py"))
             for line in path.read_text().splitlines() if ".load(" in line and "layout.RECIPE" in line]
    assert reads == READS_RECIPES


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


PRINTS = ("typer.echo", "click.echo", "sys.stdout.write", "sys.stderr.write", "traceback.print_exc")


def printed(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls that print; but for a JSON document, which is exact and escapes by itself, and a console of rich."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, first = ast.unparse(node.func), [ast.unparse(argument) for argument in node.args]
            json_ = len(first) == 1 and first[0].startswith(("json.dumps(", "as_json("))
            if (name == "print" and not json_) or name in PRINTS:
                yield node


def test_text_is_printed_in_one_module() -> None:
    """Which shows what steers a terminal; typer says the version and the help, which are ours."""
    found = [f"{path.relative_to(ROOT)}: {ast.unparse(call)}" for path in MODULES if path != ROOT / "system/terminal.py"
             for call in printed(tree(path))]
    assert found == ["cli/__init__.py: typer.echo(f'llmkit {found}')",
                     "cli/__init__.py: typer.echo(context.get_help(), err=True)"]


@pytest.mark.parametrize("code", [
    "print(label)", "print(f'{name}', file=sys.stderr)", "sys.stdout.write(text)", "print(json.dumps(a), label)",
    "traceback.print_exc()"])
def test_what_prints_past_it_is_found(code: str) -> None:
    assert list(printed(ast.parse(code)))
