"""docs/book: chapters are alike in both languages, and what they print is what stands there."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from scripts import script

ROOT = Path(__file__).parents[1]
BOOK = ROOT / "docs" / "book"
CHAPTERS = sorted(BOOK.glob("??/[0-9][0-9]-*.md"))
TITLES = sorted({path.name for path in CHAPTERS})


book = script("docs/book/make.py")


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.name[:2]}"


def blocks(path: Path, *kinds: str) -> list[str]:
    return [part.text for part in book.parts_of(path.read_text(encoding="utf-8")) if part.kind in kinds]


def prose(path: Path) -> str:
    return "".join(blocks(path, "prose"))


# ---- the chapters ----


def test_every_chapter_is_there_in_both_languages_and_in_the_index() -> None:
    index = (BOOK / "README.md").read_text(encoding="utf-8")
    assert len(TITLES) >= 1
    for language in ("en", "zh"):
        assert [path.name for path in CHAPTERS if path.parent.name == language] == TITLES
        assert re.findall(rf"\]\(({language}/\S+)\)", index) == [f"{language}/{title}" for title in TITLES]


@pytest.mark.parametrize("title", TITLES)
def test_a_chapter_has_the_same_parts_in_both_languages(title: str) -> None:
    english, chinese = BOOK / "en" / title, BOOK / "zh" / title
    for pattern in (r"^#+ ", r"^<details><summary>", r"!\[[^\]]*\]\((.*?)\)", r"^\|[-:| ]+\|$"):
        texts = (prose(english), prose(chinese).replace("-zh.png", ".png"))  # a picture of Chinese text has its own
        found = [re.findall(pattern, text, re.MULTILINE) for text in texts]
        assert found[0] == found[1], pattern
    formulas = [re.findall(r"\$\$.*?\$\$", prose(path), re.DOTALL) for path in (english, chinese)]
    assert len(formulas[0]) == len(formulas[1]) >= 1
    kinds = [[part.kind for part in book.parts_of(path.read_text(encoding="utf-8")) if part.runs or part.kind == "file"]
             for path in (english, chinese)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_a_chapter_has_a_formula_code_and_an_exercise_with_its_answer(path: Path) -> None:
    words = prose(path)
    exercise = re.search(r"^## (Exercise|练习)\n(.*)", words, re.MULTILINE | re.DOTALL)
    assert words.startswith(f"# {int(path.name[:2])} ")
    assert exercise is not None
    assert re.search(r"<details><summary>(Answer|答案)</summary>\n\n.+</details>\n", exercise[2], re.DOTALL)
    assert len(blocks(path, "python")) >= 1 and len(blocks(path, "console")) >= 1
    assert any(output for _, output in book.code_and_outputs(book.parts_of(path.read_text(encoding="utf-8"))))
    chinese = len(re.findall(r"[\u4e00-\u9fff]", words))
    assert chinese > 400 if path.parent.name == "zh" else chinese < 60


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_the_code_of_a_chapter_parses(path: Path) -> None:
    for code in blocks(path, "python"):
        ast.parse(code)


@pytest.fixture(scope="module")
def llmkit_command() -> Any:
    """The command line, with all of its commands and options."""
    from typer.main import get_command

    from llmkit.cli import app

    return get_command(app)


@pytest.mark.parametrize("path", CHAPTERS, ids=name_of)
def test_the_commands_of_a_chapter_are_those_that_help_knows(path: Path, llmkit_command: Any) -> None:
    for block in blocks(path, "console"):
        for line in book.commands(block):
            program, *words = shlex.split(line.partition("  # ")[0])
            assert program == "llmkit"
            command = llmkit_command
            while hasattr(command, "commands"):
                command = command.commands[words.pop(0)]
            known = {name for option in command.params for name in option.opts}
            assert {word.partition("=")[0] for word in words if re.match("--?[a-z]", word)} <= known, line


def test_pictures_are_small_and_shown() -> None:
    shown = {name for path in CHAPTERS for name in book.PICTURE.findall(prose(path))}
    there = {f"pictures/{path.name}": path.stat().st_size for path in BOOK.glob("pictures/*")}
    assert set(there) == shown
    assert all(size <= book.LARGEST for size in there.values())


SHORT = [path for path in CHAPTERS if path.name.startswith("01-")]


@pytest.mark.parametrize("path", [path if path in SHORT else pytest.param(path, marks=pytest.mark.slow)
                                  for path in CHAPTERS], ids=name_of)
def test_a_chapter_prints_what_stands_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in book.settings(path).items():
        monkeypatch.setenv(name, value)
    assert book.make(path, check=True) == []


# ---- the tool ----

PAGE = """# A page

```csv rows.csv
a,b
1,2
```

```python
rows = open("rows.csv").read().split()
print(len(rows), "lines, mean", 1 / 3)
```

```text
4 lines, mean 0.33
```

```python
first = rows[0]
```

```console
$ llmkit recipes show nothing  # exit status 2
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page, with its outputs written."""
    monkeypatch.chdir(tmp_path)
    return str(book.filled(PAGE, "page.md"))


def test_outputs_stand_behind_the_code_that_prints_them(page: str) -> None:
    assert "print(len(rows), \"lines, mean\", 1 / 3)\n```\n\n```text\n2 lines, mean 0.3333333333333333\n```\n\n" in page
    assert "first = rows[0]\n```\n\n```console" in page
    assert page.rstrip().endswith("```")
    assert page.endswith("  # exit status 2\n```\n\n```text\nllmkit: error: " + page.rpartition("error: ")[2])
    assert book.filled(page, "page.md") == page


def test_a_check_names_the_line_whose_output_is_another(page: str) -> None:
    assert book.differences(page, page, "page.md") == []
    assert book.differences(page.replace("0.3333333333333333", "0.34"), page, "page.md") == []
    (said,) = book.differences(PAGE.replace("4 lines", "2 lines").replace("0.33", "0.40"), page, "page.md")[:1]
    assert said == ("page.md:9: it prints\n  2 lines, mean 0.3333333333333333\nand there stands\n  2 lines, mean 0.40")


@pytest.mark.parametrize(("before", "after", "same"), [
    ("loss 2.31", "loss 2.30", True), ("loss 0.01", "loss 0.029", True), ("loss 2.31", "loss 2.0", False),
    ("40 steps", "41 steps", False), ("a  b 1.0", "a b 1.01", True), ("the cat", "the dog", False),
    ("1,234.5", "1,230.1", True), ("-0.50", "0.50", False), ("1e-08", "3e-07", True),
])
def test_numbers_with_a_point_may_differ_a_little_and_nothing_else(before: str, after: str, same: bool) -> None:
    assert book.alike(before, after, *book.NEAR) is same


def test_figures_of_a_trained_model_may_differ_more() -> None:
    was, now, other = (book.Part("text", f"accuracy {figure} in 40 steps\n", 1, "trained")
                       for figure in (0.67, 0.76, 0.9))
    assert book.difference(was, now) == ""
    assert book.difference(was, other) != ""
    assert book.difference(book.Part("text", was.text, 1), now) != ""


def test_what_a_model_writes_may_vary() -> None:
    was, now, longer = (book.Part("text", text, 1, "varies") for text in ("a\n", "b\n", "a\nb\n"))
    assert book.difference(was, now) == ""
    assert book.difference(was, longer) == "2 lines are printed, 1 stand there"


def test_outputs_of_another_python_are_not_compared(page: str) -> None:
    other = f"{PAGE}\n<!-- written by make.py under Python 3.0 -->\n"
    assert book.differences(other, page, "page.md") == []
    assert book.differences(other.replace("3.0", book.VERSION.split()[1]), page, "page.md") != []


@pytest.mark.parametrize(("code", "said"), [
    ("```python\n1\nnone\n```\n", "page.md:3: NameError: name 'none' is not defined"),
    ("```console\n$ rm -r x\n```\n", "page.md:2: ValueError: rm -r x: a chapter runs llmkit's commands, and no others"),
    ("```console\n$ llmkit recipes show bert_mlm  # exit status 2\n```\n",
     "page.md:2: ValueError: llmkit recipes show bert_mlm: exit status 0"),
])
def test_a_chapter_that_fails_says_where(code: str, said: str) -> None:
    with pytest.raises(book.Failed) as error:
        book.filled(code, "page.md")
    assert str(error.value).splitlines()[0] == said


def test_chapters_are_named_by_number_language_or_path() -> None:
    assert book.chapters([]) == CHAPTERS
    assert [name_of(path) for path in book.chapters(["01"])] == ["en/01", "zh/01"]
    assert [name_of(path) for path in book.chapters(["zh/01", str(CHAPTERS[0])])] == ["zh/01", "en/01"]
    with pytest.raises(ValueError, match=r"there is no chapter '99'; there are en/01, "):
        book.chapters(["99"])


@pytest.mark.slow  # two runs; a chapter a language is run in any case
def test_the_notebook_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "notebook.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert book.differences(page, book.filled(page, "notebook.md"), "notebook.md") == []


def test_a_notebook_has_the_code_and_its_outputs(tmp_path: Path) -> None:
    import nbformat

    written = nbformat.read(book.write_notebook(CHAPTERS[0], tmp_path), as_version=4)
    nbformat.validate(written)
    code = [cell for cell in written.cells if cell.cell_type == "code"]
    expected = [(part, output) for part, output in book.code_and_outputs(book.parts_of(CHAPTERS[0].read_text()))
                if part.runs or part.kind == "file"]
    assert [len(cell.outputs) for cell in code] == [int(output is not None) for _, output in expected]
    assert code[0].source == expected[0][0].text.rstrip("\n")
    assert code[0].outputs[0].text == expected[0][1].text
    assert any(cell.source.startswith("%%writefile alice.txt\nAlice was") for cell in code)
    assert any(cell.source.startswith("!llmkit inspect bert_mlm --set") for cell in code)
    assert not any("```" in cell.source or "<details>" in cell.source for cell in written.cells)
