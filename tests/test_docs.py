"""What the pages for people who carry on say of the code: every name, path and link in them is there."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from test_contributing import examples
from test_structure import FLOOR

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("[a-z]*.md"))
PAGES = [ROOT / "CONTRIBUTING.md", DOCS / "architecture.md", DOCS / "decisions" / "README.md", *DECISIONS]
MADE = {path for example in examples().values() for path in example.files}
"""Files that a reader of the examples writes."""


def names(page: Path) -> list[str]:
    """Dotted names of ours in a page's words; those in its code are run by test_contributing."""
    words = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return sorted(set(re.findall(r"`(llmkit(?:\.\w+)+)", words)))


def paths(page: Path) -> list[str]:
    """Paths of the repository that a page names."""
    path = r"(?<![\w/.])((?:llmkit|tests|docs|recipes|benchmarks|examples)/[\w./-]*\w/?)"
    found = re.findall(path, page.read_text())
    return sorted({path for path in found if path not in MADE})


def there(name: str) -> bool:
    """Whether a dotted name leads to a module, a class, a function or a method."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = "/".join(parts[:end])
        if (ROOT / f"{module}.py").is_file() or (ROOT / module / "__init__.py").is_file():
            found = import_module(".".join(parts[:end]))
            for part in parts[end:]:
                if part not in dir(found):
                    return False
                found = getattr(found, part)
            return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_that_a_page_mentions_is_there(page: Path) -> None:
    assert [name for name in names(page) if not there(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_path_that_a_page_mentions_is_there(page: Path) -> None:
    assert [path for path in paths(page) if not (ROOT / path).exists()] == []


EVERY = sorted([*ROOT.glob("*.md"), ROOT / "benchmarks" / "RESULTS.md", *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    words = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(#[\w-]+)?\)", words)
    assert [link for link, _ in links if "://" not in link and not (page.parent / link).exists()] == []
    assert [link + title for link, title in links if title and link.endswith(".md")
            and title[1:] not in titles(page.parent / link)] == []


def titles(page: Path) -> set[str]:
    """Where a link into a page may lead, as GitHub calls its headings: `A run's folder` is `a-runs-folder`."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def commands(page: Path) -> list[str]:
    """The commands and recipes of a page, without the words beside them."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [re.sub(r"\s*#.*", "", line) for block in blocks for line in block.splitlines()]
    rows = re.findall(r"^\| .* \| (.*) \|$", page.read_text(), re.MULTILINE)
    return lines + [command for row in rows for command in re.findall(r"`([^`]+)`", row)]


def test_the_chinese_readme_has_the_commands_of_the_english_one() -> None:
    ours, theirs = (commands(ROOT / name) for name in ("README.md", "README.zh-CN.md"))
    changed = {"llmkit explain runs/reviews \"这部电影很好看。\"": "llmkit explain runs/reviews \"A lovely film.\"",
               "llmkit generate \"从前\" --model runs/mine": "llmkit generate \"Once upon a time\" --model runs/mine",
               "llmkit answer \"作者是谁？\" --context book.txt": "llmkit answer \"Who?\" --context book.txt",
               "llmkit search \"复制文件\" --in my/folder": "llmkit search \"copy a file\" --in my/folder",
               "llmkit answer \"作者是谁？\" --in my/folder": "llmkit answer \"Who wrote it?\" --in my/folder"}
    assert len(ours) > 30
    assert [changed.get(line, line) for line in theirs] == ours
    assert len(re.findall("^## ", (ROOT / "README.zh-CN.md").read_text(), re.MULTILINE)) == len(
        re.findall("^## ", (ROOT / "README.md").read_text(), re.MULTILINE))
IMPORTED = re.compile(r"^ *from (llmkit[\w.]*) import ([\w, ]+)$|^ *import (llmkit[\w.]*)", re.MULTILINE)


def imported(page: str) -> list[str]:
    """Dotted names that a page's code imports from llmkit."""
    code = "\n".join(re.findall(r"^ *```(?:python|py)[^\n]*\n(.*?)^ *```", page, re.MULTILINE | re.DOTALL))
    return [f"{module}.{name.split()[0]}" if module else whole for module, several, whole in IMPORTED.findall(code)
            for name in (several or "x").split(",")]


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_pages_code_imports_is_there(page: Path) -> None:
    gone = [name for name in imported(page.read_text()) if name != "llmkit" and not there(name)]
    assert [name for name in gone if not any(name.startswith(path.removesuffix(".py").replace("/", "."))
                                             for path in MADE)] == []


def test_imports_of_a_page_are_seen() -> None:
    page = ("```python\nimport llmkit\nfrom llmkit.data import tokens, rows as r\n```\ntext: from llmkit import no\n"
            "  ```python\n  from llmkit import flops\n  ```\n```yaml\nfrom llmkit import none\n```\n")
    assert imported(page) == ["llmkit", "llmkit.data.tokens", "llmkit.data.rows", "llmkit.flops"]
    assert [there(name) for name in imported(page)] == [True, True, True, False]


def test_a_name_that_is_not_there_is_found() -> None:
    assert there("llmkit.training.fit.fit")
    assert there("llmkit.data.tokens.Documents.split")
    assert not there("llmkit.training.fit.fitted")
    assert not there("llmkit.trainer")


def test_the_pages_name_what_a_row_goes_through() -> None:
    assert len(names(DOCS / "architecture.md")) > 20


def test_the_drawing_shows_every_folder_in_the_order_that_the_structure_has() -> None:
    page = (DOCS / "architecture.md").read_text()
    drawing = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    shown = [folder for line in drawing.splitlines() for folder in re.split(" {3,}", line)[0].split()]
    assert sorted(shown) == sorted(path.parent.name for path in (ROOT / "llmkit").glob("*/__init__.py"))
    assert [FLOOR[folder] for folder in shown] == sorted((FLOOR[folder] for folder in shown), reverse=True)


def test_every_decision_is_in_the_index() -> None:
    folder = DOCS / "decisions"
    index = (folder / "README.md").read_text()
    assert re.findall(r"^- .*?\]\((.*?)\)", index, re.MULTILINE) == [
        "own-loop.md", "chance-as-an-argument.md", "sum-and-count.md", "no-pickles.md", "own-decoder.md"]
    assert set(re.findall(r"\]\((.*?)\)", index)) == {page.name for page in folder.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_what_why_at_which_cost_and_until_when(page: Path) -> None:
    parts = re.findall(r"^\*\*(.*?)\*\*", page.read_text(), re.MULTILINE)
    assert [part for part in parts if part not in ("What we still rest on.", "What holds it right.")] == [
        "Decided.", "Why.", "What it costs.", "What would change it."]


def test_the_plug_in_folders_that_the_architecture_names_are_those_of_the_registry() -> None:
    from llmkit.recipe.registry import KINDS

    named = set(re.findall(r"`llmkit/(\w+)/`", (DOCS / "architecture.md").read_text()))
    assert set(KINDS) <= named
