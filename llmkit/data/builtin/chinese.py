"""Chinese text of the package chinese-poetry: Tang poems, songs and the classics, fetched once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmkit.system import cache
from llmkit.system.environment import switched_on
from llmkit.system.errors import DataError

log = logging.getLogger("llmkit")


class Archive(NamedTuple):
    """A package of the npm registry, pinned."""

    name: str
    version: str
    sha256: str
    size: str
    licence: str

    @property
    def file(self) -> str:
        """chinese-poetry-2.0.1.tgz"""
        return f"{self.name}-{self.version}.tgz"


POETRY = Archive("chinese-poetry", "2.0.1", "25b549e46919c3a0569db6b68ddc96956b04a484ea4518ad2bbd4f137e307e86",
                 "85 MB", "MIT; the texts are older than 1900 and in the public domain")
"""github.com/chinese-poetry/chinese-poetry. PyPI has no package with as much Chinese text under a free licence."""
FOLDER = "package/dist/"
TANG = re.compile(r"quantangshi/poet\.tang\.\d+\.json")
"""The poems of the Tang (Quan Tang shi, 1705), in traditional characters."""
MEMBERS = re.compile(
    rf"{TANG.pattern}|songci/ci\.song\.\d+\.json|(lunyu|shijing|youmengying|caocaoshiji|nalanxingde|sishuwujing)/.+\.json")
"""What is kept: with songs of the Song, the Analects, the Book of Songs and other classics, in simplified ones."""
TEXTS = ("paragraphs", "content", "para")
"""What the package calls the lines of a text."""
TITLES = ("title", "rhythmic", "chapter")
PLAIN = re.compile(r"[\u3400-\u9fff\U00020000-\U0003ffff，。？！；：、“”‘’《》「」『』（）·…— \n]+")
"""A text that was printed whole: others have □ for what is lost, notes or broken characters."""
ENDS = re.compile(r"[，。？！；：、]")


def texts() -> Iterator[dict[str, Any]]:
    """Real Chinese, over 10 MB: Tang poems, songs of the Song and classics (chinese-poetry, MIT); {text, title}."""
    for row in _kept():
        yield {"text": row["text"], "title": row["title"]}


def tang_poems() -> Iterator[dict[str, Any]]:
    """Tang poems of 4 or 8 equal lines of 5 or 7 characters (chinese-poetry, MIT); {text, title, author}."""
    for row in _kept():
        if row["tang"] and (text := regular(row["text"])):
            yield {"text": text, "title": row["title"], "author": row["author"]}


def regular(poem: str) -> str | None:
    r"""A poem with a line of the page for each of its lines; None where it has not 4 or 8 equal ones of 5 or 7.

    >>> regular("牀前看月光，疑是地上霜。\n舉頭望山月，低頭思故鄉。")
    '牀前看月光，\n疑是地上霜。\n舉頭望山月，\n低頭思故鄉。'
    """
    lines = re.findall(r"[^，。？！；：、\n]+[，。？！；：、]?", poem)
    lengths = {len(ENDS.sub("", line)) for line in lines}
    return "\n".join(lines) if len(lines) in (4, 8) and lengths in ({5}, {7}) else None


def _kept() -> Iterator[dict[str, Any]]:
    """The rows of the archive, from llmkit's cache."""
    place = cache.root() / "texts" / f"{POETRY.name}-{POETRY.version}-{POETRY.sha256[:16]}"
    if not place.is_dir():
        if switched_on("LLMKIT_OFFLINE"):
            raise DataError(f"builtin:chinese isn't on this machine, and LLMKIT_OFFLINE switches off the registry that "
                            f"it comes from ({POETRY.name} {POETRY.version}, {POETRY.size}); run it once without, or "
                            "give a file.")
        cache.once("texts", place.name, _fill)
    with (place / "rows.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _fill(folder: Path) -> None:
    """Fetch the archive, look at its hash, and keep what it has as rows.jsonl, with its licence."""
    with tempfile.TemporaryDirectory(prefix="llmkit-") as scratch:
        log.info("downloading builtin:chinese: %s %s from the npm registry, %s (once)", POETRY.name, POETRY.version,
                 POETRY.size)
        packed = packaged(POETRY, Path(scratch))
        with packed.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != POETRY.sha256:
            raise DataError(f"{packed.name} isn't the package that builtin:chinese is made of: its SHA-256 is {found}, "
                            f"expected {POETRY.sha256}. Check the mirror that npm uses.")
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as out:
            for row in rows_of(packed):
                out.write(json.dumps(row, ensure_ascii=False) + "\n")
        (folder / "LICENCE.txt").write_text(f"{POETRY.name} {POETRY.version}: {POETRY.licence}.\n", encoding="utf-8")


def packaged(archive: Archive, folder: Path) -> Path:
    """Let npm fetch an archive into a folder, with its own settings for mirrors and proxies; nothing of it is run."""
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("builtin:chinese comes from the npm registry, and there is no npm here: install Node.js's npm, "
                        f"or fetch {archive.name} {archive.version} elsewhere and name its files in data.train.")
    done = subprocess.run([npm, "pack", f"{archive.name}@{archive.version}", "--silent", "--ignore-scripts"],
                          cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / archive.file).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["npm said nothing"]
        raise DataError(f"builtin:chinese can't be had: `npm pack {archive.name}@{archive.version}` failed: "
                        f"{said[-1].strip()[:300]}")
    return folder / archive.file


def rows_of(packed: Path) -> Iterator[dict[str, Any]]:
    """{text, title, author, tang} of each text that was printed whole, each text once; no path of it is followed."""
    members: dict[str, bytes] = {}
    with tarfile.open(packed) as archive:
        for member in archive:
            name = member.name.removeprefix(FOLDER)
            if member.isfile() and MEMBERS.fullmatch(name) and (file := archive.extractfile(member)):
                members[name] = file.read()
    seen: set[str] = set()
    for name in sorted(members):
        for row in _texts_in(json.loads(members[name])):
            if row["text"] not in seen and PLAIN.fullmatch(row["text"]):
                seen.add(row["text"])
                yield {**row, "tang": TANG.fullmatch(name) is not None}


def _texts_in(node: Any) -> Iterator[dict[str, str]]:
    """The texts of a JSON document, however deep they stand."""
    for each in node if isinstance(node, list) else ():
        yield from _texts_in(each)
    if not isinstance(node, dict):
        return
    lines = next((node[key] for key in TEXTS if isinstance(node.get(key), list)), None)
    if lines and all(isinstance(line, str) for line in lines):
        title = next((str(node[key]) for key in TITLES if node.get(key)), "")
        text = "\n".join(stripped for line in lines if (stripped := line.strip()))
        yield {"text": text, "title": title, "author": str(node.get("author") or "")}
        return
    for each in node.values():
        yield from _texts_in(each)
