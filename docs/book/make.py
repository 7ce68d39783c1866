"""Run the book: each chapter in a fresh folder, from its first line to its last; its outputs stand below its code.

    python docs/book/make.py                        # all chapters, in both languages
    python docs/book/make.py 03 zh/07               # some of them
    python docs/book/make.py --check                # nothing is written; exit status 1 where an output isn't the page's
    python docs/book/make.py --notebook notebooks   # each chapter as a notebook (.ipynb), with these outputs

A chapter is Markdown with four kinds of blocks between fences; all others are left alone:

    ```python               run, in one namespace from the first block to the last
    ```console              lines of `$ llmkit …`, run by the command line's own function, in the same process
    ```jsonl rows.jsonl     a file: it is written into the folder
    ```text                 right behind one of the first two: what it printed on stdout. Written by this script

`$ llmkit … # exit status 2` is a command that has to fail so; its last line, the error, is shown, in the language of
the chapter. A picture that the chapter shows and its code draws, `pictures/02-heads.png`, is copied beside the book;
where the Chinese chapter draws another, from Chinese text, that is called `pictures/02-heads-zh.png`.

What --check calls the same: words and whole numbers are equal; numbers with a point differ by 0.02 or by 5 %, whichever
is more, for other processors round otherwise and training carries that on; in ```text trained, figures of a model that
was trained here, by 0.1 or 20 %; of ```text varies (what such a model writes) the number of lines is compared. Another
version of Python has other docstrings, and so other numbers in the chapters on `builtin:` texts of Python: the last
line of such a chapter says which version wrote it, and only that one is compared.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BOOK = Path(__file__).parent
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\(\.\./(pictures/[\w.-]+)\)")
FIGURE = re.compile(r"-?\d[\d,]*\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]\d+")
OF_PYTHON = re.compile(r"builtin:(?:python|docstring)-")
VERSION = "Python {}.{}".format(*sys.version_info)
WRITTEN_BY = re.compile(r"\n<!-- written by make\.py under (.*) -->\n")
NEAR, TRAINED = (0.05, 0.02), (0.2, 0.1)
"""By how much numbers with a point may differ: the share, and what is always allowed."""
LARGEST = 60_000
"""Bytes that a picture of the book may have."""
SETTINGS = {
    "HF_HUB_OFFLINE": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false", "NO_COLOR": "1", "TRANSFORMERS_VERBOSITY": "error",
}
"""What would make a number or a line differ: terminals, threads, a hub."""


def settings(chapter: Path) -> dict[str, str]:
    """The variables that a chapter runs under: zh/03-causal-models.md has LLMKIT_LANG=zh."""
    return {**SETTINGS, "LLMKIT_LANG": chapter.parent.name}


@dataclass(frozen=True)
class Part:
    """A stretch of a chapter: prose, or a block between fences."""

    kind: str
    """prose, python, console, text … or file."""
    text: str
    """Of a block, what stands between its fences."""
    line: int
    """Where it begins in the file, from 1; of a block, its first line of code."""
    name: str = ""
    """What stands behind the fence's language: a file's name, or varies."""

    @property
    def runs(self) -> bool:
        return self.kind in ("python", "console")

    def written(self) -> str:
        """As it stands in the file."""
        if self.kind == "prose":
            return self.text
        language = self.kind if self.kind != "file" else Path(self.name).suffix[1:]
        return f"```{language}{' ' * bool(self.name)}{self.name}\n{self.text}```\n"


class Failed(Exception):
    """A chapter that doesn't run to its end: where, and why."""


def parts_of(page: str) -> list[Part]:
    """A chapter cut at its fences; put together again, it is the chapter."""
    parts, end = [], 0
    for block in FENCE.finditer(page):
        if block.start() > end:
            parts.append(Part("prose", page[end : block.start()], page.count("\n", 0, end) + 1))
        language, name, text = block.groups()
        kind = "file" if name and "." in name else language
        parts.append(Part(kind, text, page.count("\n", 0, block.start()) + 2, name or ""))
        end = block.end()
    return [*parts, Part("prose", page[end:], page.count("\n", 0, end) + 1)] if end < len(page) else parts


def code_and_outputs(parts: Sequence[Part]) -> Iterator[tuple[Part, Part | None]]:
    """Each part, and of a block that runs the output: code, an empty line, ```text. No output comes by itself."""
    i = 0
    while i < len(parts):
        part, behind = parts[i], parts[i + 1 : i + 3]
        if part.runs and len(behind) == 2 and not behind[0].text.strip() and behind[1].kind == "text":
            yield part, behind[1]
            i += 3
        else:
            yield part, None
            i += 1


# ---- running ----


def filled(page: str, where: str) -> str:
    """A chapter with every output written anew; it runs in the current folder. Failed, where it doesn't."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for name in PICTURE.findall(page):
        Path(name).parent.mkdir(exist_ok=True)
    pieces: list[str] = []
    with redirect_stderr(io.StringIO()) as log:
        for part, output in code_and_outputs(parts_of(WRITTEN_BY.sub("", page))):
            pieces.append(part.written())
            if part.kind == "file":
                Path(part.name).parent.mkdir(parents=True, exist_ok=True)
                Path(part.name).write_text(part.text, encoding="utf-8")
            elif part.runs and (printed := run(part, namespace, where, log)):
                pieces += ["\n", replace(output or Part("text", "", 0), text=printed).written()]
    end = f"\n<!-- written by make.py under {VERSION} -->\n" if OF_PYTHON.search(page) else ""
    return "".join(pieces) + end


def run(part: Part, namespace: dict[str, Any], where: str, log: io.StringIO) -> str:
    """What a block prints: its lines without spaces at their ends."""
    with redirect_stdout(io.StringIO()) as out:
        try:
            if part.kind == "python":
                exec(compile("\n" * (part.line - 1) + part.text, where, "exec"), namespace)
            else:
                for line in commands(part.text):
                    command(line, log)
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
            said = "\n".join(log.getvalue().splitlines()[-8:])
            raise Failed(f"{where}:{(lines or [part.line])[-1]}: {type(error).__name__}: {error}\n{said}") from error
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().strip("\n").splitlines())


def commands(text: str) -> list[str]:
    r"""The commands of a block: a line each behind its `$`, or several that end with `\`."""
    return [line.removeprefix("$").strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]


def command(line: str, log: io.StringIO) -> None:
    """Run `llmkit …` as the command line does; ValueError where it doesn't end as the line says."""
    from llmkit.cli import main

    line, _, comment = line.partition("  # ")
    status = re.match(r"exit status (\d+)", comment)
    program, *words = shlex.split(line)
    if program != "llmkit":
        raise ValueError(f"{line}: a chapter runs llmkit's commands, and no others")
    began = log.tell()
    if (ended := main(words)) != (int(status[1]) if status else 0):
        raise ValueError(f"{line}: exit status {ended}")
    if status:
        print(log.getvalue()[began:].rstrip().splitlines()[-1])


# ---- comparing ----


def differences(old: str, new: str, where: str) -> list[str]:
    """Where a chapter's outputs aren't what its code prints."""
    writer = WRITTEN_BY.search(old)
    if writer and writer[1] != VERSION:
        return []
    pairs = zip(code_and_outputs(parts_of(old)), code_and_outputs(parts_of(new)))
    return [f"{where}:{code.line}: {why}" for (code, was), (_, is_) in pairs if (why := difference(was, is_))]


def difference(was: Part | None, is_: Part | None) -> str:
    """Why two outputs aren't the same; empty where they are."""
    old, new = ("" if output is None else output.text for output in (was, is_))
    if len(old.splitlines()) != len(new.splitlines()):
        return f"{len(new.splitlines())} lines are printed, {len(old.splitlines())} stand there"
    if was is not None and was.name == "varies":
        return ""
    for before, after in zip(old.splitlines(), new.splitlines(), strict=True):
        if not alike(before, after, *TRAINED if was is not None and was.name == "trained" else NEAR):
            return f"it prints\n  {after}\nand there stands\n  {before}"
    return ""


def alike(before: str, after: str, share: float, least: float) -> bool:
    """Whether two lines are the same but for their numbers with a point, and these near each other.

    >>> alike("loss 2.31 in 40 steps", "loss 2.30 in 40 steps", *NEAR), alike("40 steps", "41 steps", *NEAR)
    (True, False)
    """
    if [" ".join(piece.split()) for piece in FIGURE.split(before)] != [
            " ".join(piece.split()) for piece in FIGURE.split(after)]:
        return False
    pairs = zip(FIGURE.findall(before), FIGURE.findall(after), strict=True)
    return all(math.isclose(float(one.replace(",", "")), float(other.replace(",", "")), rel_tol=share, abs_tol=least)
               for one, other in pairs)


# ---- notebooks ----


def notebook(page: str, language: str) -> Any:
    """A chapter as a notebook by jupytext: commands behind `!`, files by %%writefile, outputs below their code."""
    import jupytext
    from nbformat.v4 import new_output

    pieces, outputs = [], []
    for part, output in code_and_outputs(parts_of(WRITTEN_BY.sub("", page))):
        if not (part.runs or part.kind == "file"):
            answer = re.sub(r"<details><summary>(.*?)</summary>", r"**\1**", part.written())
            pieces.append(answer.replace("</details>", "").replace("](../pictures/", "](pictures/"))
            continue
        code = part.text
        if part.kind == "console":
            code = "".join(f"!{line.partition('  # ')[0]}\n" for line in commands(code))
        elif part.kind == "file":
            code = f"%%writefile {part.name}\n{code}"
        pieces.append(f"```python\n{code}```\n")
        outputs.append([] if output is None else [new_output("stream", name="stdout", text=output.text)])
    book = jupytext.reads("".join(pieces), fmt="md")
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book.metadata["language_info"] = {"name": "python"}
    book.metadata["natural_language"] = language
    for cell, printed in zip((cell for cell in book.cells if cell.cell_type == "code"), outputs, strict=True):
        cell.outputs = printed
    return book


def write_notebook(path: Path, folder: Path) -> Path:
    """The chapter's notebook, in a folder of its language."""
    import nbformat

    to = folder / path.parent.name / f"{path.stem}.ipynb"
    to.parent.mkdir(parents=True, exist_ok=True)
    page = path.read_text(encoding="utf-8")
    nbformat.write(notebook(page, path.parent.name), to)
    for name in PICTURE.findall(page):
        (to.parent / name).parent.mkdir(exist_ok=True)
        (to.parent / name).write_bytes((BOOK / name).read_bytes())
    return to


# ---- the command ----


def chapters(named: Sequence[str]) -> list[Path]:
    """The files of `03`, `zh/03`, `en` or a path; all, where nothing is named. ValueError for what there isn't."""
    every = sorted(BOOK.glob("[ez][nh]/[0-9][0-9]-*.md"))
    if not named:
        return every
    chosen = []
    for name in named:
        key = re.sub(r"^(?:.*/)?((?:en|zh)/)", r"\1", name)
        found = [path for path in every if f"{path.parent.name}/{path.name}".startswith(key)
                 or path.name.startswith(f"{key}-") or path.name == key]
        if not found:
            there = ", ".join(f"{path.parent.name}/{path.name[:2]}" for path in every)
            raise ValueError(f"there is no chapter {name!r}; there are {there}")
        chosen += found
    return chosen


def make(path: Path, check: bool, pictures: Path = BOOK) -> list[str]:
    """Run a chapter; write its outputs and pictures, or with `check` only say what differs."""
    page, where = path.read_text(encoding="utf-8"), str(path.relative_to(BOOK.parents[1]))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        new = filled(page, where)
        drawn = {name: reduced(Path(name)) for name in PICTURE.findall(page) if Path(name).is_file()}
    wrong = [f"{where}: {name} has {len(image):,} bytes, more than {LARGEST:,}"
             for name, image in drawn.items() if len(image) > LARGEST]
    if check:
        return [*wrong, *differences(page, new, where)]
    path.write_text(new, encoding="utf-8")
    for name, image in drawn.items():
        (pictures / name).write_bytes(image)
    return wrong


def reduced(picture: Path) -> bytes:
    """A PNG with 64 colours: a third of the bytes, and nobody sees it."""
    from PIL import Image

    out = io.BytesIO()
    with Image.open(picture) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(description="Run chapters of the book and write what they print.")
    parser.add_argument("chapters", nargs="*", metavar="CHAPTER", help="03, zh/03 or a path; all where none is named")
    parser.add_argument("--check", action="store_true", help="write nothing, fail where an output differs")
    parser.add_argument("--notebook", metavar="FOLDER", type=Path, help="write notebooks there instead; nothing is run")
    asked = parser.parse_args()
    try:
        paths = chapters(asked.chapters)
    except ValueError as error:
        parser.error(str(error))
    if asked.notebook is not None:
        for path in paths:
            print(write_notebook(path, asked.notebook))
        return 0
    if len(paths) > 1:  # each in a process of its own, so that none leaves the next one anything
        check = ["--check"] if asked.check else []
        return max([subprocess.run([sys.executable, __file__, str(path), *check]).returncode for path in paths])
    os.environ.update(settings(paths[0]))
    began = time.monotonic()
    try:
        wrong = make(paths[0], asked.check)
    except Failed as error:
        wrong = [str(error)]
    ended = f"{'failed' if wrong else 'ran'} in {time.monotonic() - began:.0f} s"
    print(*wrong, f"{'/'.join(paths[0].parts[-2:])}: {ended}", sep="\n", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
