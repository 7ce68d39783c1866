"""Text that every Python carries, so that a recipe runs with no download: the language reference and docstrings."""

import ast
import hashlib
import inspect
import json
import random
import re
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmkit.data.builtin import python_lines
from llmkit.data.builtin.python_lines import tagged_lines
from llmkit.system import cache
from llmkit.system.errors import DataError, RequestError, nearest


class Place(NamedTuple):
    """Where a document stands: a file and a line or row, both as a person counts them.

    >>> str(Place("corpus.txt", 12)), str(Place("corpus.txt", None))
    ('corpus.txt:12', 'corpus.txt')
    """

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class _Docstring(NamedTuple):
    module: str
    name: str
    """Dotted within the module; empty for the module itself, a heading for the reference."""
    kind: str
    """reference | module | class | function | method"""
    text: str
    code: str = ""
    """Of a short function, what it does: its source without the docstring."""


# Tests, other people's code, and what a distribution adds to the folder of the library.
_SKIP = {"test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "ensurepip", "site-packages",
         "dist-packages", "__pycache__", "lib-dynload"}

# Modules of the library that people know by another name.
_KNOWN_AS = {"_pydecimal": "decimal", "_pyio": "io", "_pydatetime": "datetime", "_collections_abc": "collections.abc",
             "posixpath": "os.path", "genericpath": "os.path", "pathlib._local": "pathlib", "pathlib._abc": "pathlib"}

_MODULES = {
    "networking": "http urllib socket socketserver ssl ftplib smtplib imaplib poplib nntplib telnetlib xmlrpc wsgiref "
                  "ipaddress webbrowser cgi cgitb smtpd asyncore asynchat selectors netrc",
    "data-formats": "email mailbox json csv xml html configparser plistlib tomllib base64 quopri uu mimetypes mailcap "
                    "pickle pickletools shelve dbm sqlite3 xdrlib wave sunau aifc _markupbase binhex",
    "data-types": "collections _collections_abc enum typing types dataclasses heapq bisect copy copyreg weakref "
                  "_weakrefset functools operator abc _py_abc graphlib contextlib reprlib array uuid annotationlib",
    "numbers-and-dates": "_pydecimal fractions statistics random numbers datetime _pydatetime calendar _strptime "
                         "zoneinfo secrets hashlib hmac colorsys",
    "concurrency": "asyncio concurrent multiprocessing threading _threading_local subprocess queue sched signal",
    "files": "os pathlib shutil tempfile glob fnmatch tarfile zipfile gzip bz2 lzma stat genericpath posixpath ntpath "
             "filecmp fileinput _pyio io linecache zipapp _compression compression",
    "testing-and-debugging": "unittest doctest pdb bdb trace traceback tracemalloc timeit profile profiling cProfile "
                             "pstats logging warnings faulthandler",
    "graphics": "tkinter turtle curses",
}

TOPICS = {module: topic for topic, modules in _MODULES.items() for module in modules.split()}
"""The part of the library that a top-level module belongs to, where it clearly belongs to one."""

_UNDERLINED = re.compile(r"^(?=\S)(.+)\n(?:\*{3,}|={3,}|-{3,}|~{3,})$", re.MULTILINE)


# ---- reading the library ---------------------------------------------------------------------------------------


def _files() -> list[tuple[str, Path]]:
    """The library's own modules as (path within it, path), in one order on every machine."""
    root = Path(sysconfig.get_path("stdlib"))
    found = ((path.relative_to(root), path) for path in root.rglob("*.py"))
    return sorted((short.as_posix(), path) for short, path in found
                  if not _SKIP & set(short.parts) and not short.parts[0].startswith(("config-", "_sysconfigdata")))


def _definitions(tree: ast.Module) -> Iterator[tuple[str, str, str, str]]:
    """(dotted name, kind, docstring, code) of a module and all it defines; expressions aren't walked: half the time."""
    waiting: list[tuple[ast.AST, str, bool]] = [(tree, "", False)]
    while waiting:
        node, name, in_class = waiting.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if not isinstance(node, ast.Module):
                name = f"{name}.{node.name}" if name else node.name
            kind = ("module" if isinstance(node, ast.Module) else "class" if isinstance(node, ast.ClassDef)
                    else "method" if in_class else "function")
            in_class = kind == "class"
            if text is not None:
                yield name, kind, inspect.cleandoc(text), _code(node)
        below = [getattr(node, part, []) for part in ("body", "handlers", "orelse", "finalbody")]
        waiting.extend((child, name, in_class) for child in reversed([node for part in below for node in part])
                       if isinstance(child, ast.stmt | ast.ExceptHandler))


def _code(node: ast.AST) -> str:
    """The source of a function of at most 30 lines, as Python itself writes it: no docstring, comment or decorator."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (node.end_lineno or 0) - node.lineno > 30:
        return ""
    body = node.body[1:]
    if not body or (len(body) == 1 and isinstance(body[0], ast.Pass | ast.Raise | ast.Expr)):
        return ""  # it is left to others what it does
    parts = dict(ast.iter_fields(node)) | {"body": body, "decorator_list": []}
    return ast.unparse(ast.fix_missing_locations(type(node)(**parts)))


def _reference() -> Iterator[_Docstring]:
    """The language reference, a document a section, headings without the line of stars under them."""
    from pydoc_data import topics

    for topic in sorted(topics.topics):
        pieces = _UNDERLINED.split(topics.topics[topic])
        heads = ["", *pieces[1::2]]
        for head, body in zip(heads, pieces[::2], strict=True):
            if body.strip():
                text = f"{head}\n\n{body.strip()}" if head else body.strip()
                yield _Docstring(f"pydoc_data.topics.{topic}", head, "reference", text)


def _parsed() -> Iterator[_Docstring]:
    yield from _reference()
    for short, path in _files():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in strings are the library's business
            try:
                tree = ast.parse(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # a template of some distribution, and no module: it has no docstrings
        module = short.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        for name, kind, text, code in _definitions(tree):
            if text:
                yield _Docstring(module, name, kind, text, code)


def _library() -> Iterator[_Docstring]:
    """All of it, parsed once for this Python and kept; exact duplicates are left out."""
    listing = [(short, path.stat().st_size) for short, path in _files()]
    if not listing:
        raise DataError(f"this Python has no sources of its library in {sysconfig.get_path('stdlib')}.")
    parser = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    about = json.dumps([sys.version, sys.implementation.name, listing, parser])

    def make(folder: Path) -> None:
        seen: set[str] = set()
        with (folder / "docstrings.jsonl").open("w", encoding="utf-8") as file:
            for found in _parsed():
                if found.text not in seen:
                    seen.add(found.text)
                    file.write(json.dumps(found) + "\n")

    folder = cache.once("builtin", hashlib.sha256(about.encode()).hexdigest(), make)
    with (folder / "docstrings.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield _Docstring(*json.loads(line))


# ---- the sets --------------------------------------------------------------------------------------------------


def _python_docs() -> Iterator[dict[str, Any]]:
    """Real English, about 2 MB: Python's language reference and the docstrings of its library; {text, title}."""
    for found in _library():
        module = _KNOWN_AS.get(found.module, found.module)
        title = f"{module}.{found.name}".rstrip(".") if found.kind != "reference" else found.name
        yield {"text": found.text, "title": title or module.rpartition(".")[2]}


def _docstring_summaries() -> Iterator[dict[str, Any]]:
    """The first line of a docstring, to be written from the rest of it; {text, summary}."""
    return (row for _, row in _summarised())


def _summarised() -> Iterator[tuple[_Docstring, dict[str, Any]]]:
    for found in _library():
        if found.kind == "reference":
            continue
        summary, _, rest = found.text.partition("\n")
        # PEP 257: a summary is a line by itself, with a blank line after it
        if rest.startswith("\n") and len(summary.split()) >= 3 and len(rest.split()) >= 20:
            yield found, {"text": rest.strip("\n"), "summary": summary.strip()}


def _docstring_topics() -> Iterator[dict[str, Any]]:
    """Which part of the library a docstring of at least eight words is from; {text, label}."""
    for found in _library():
        topic = TOPICS.get(found.module.partition(".")[0])
        if topic is not None and len(found.text.split()) >= 8:
            yield {"text": found.text, "label": topic}


def _docstring_labels() -> Iterator[dict[str, Any]]:
    """Of what a docstring is: module, class, function or method, and which part of the library; {text, labels}."""
    for found in _library():
        if found.kind != "reference" and len(found.text.split()) >= 8:
            topic = TOPICS.get(found.module.partition(".")[0])
            yield {"text": found.text, "labels": [found.kind, *([topic] if topic is not None else [])]}


def _docstring_choices() -> Iterator[dict[str, Any]]:
    """Which of four first lines of the same module the rest of a docstring belongs to; {question, choices, answer}."""
    found = [(one.module, row) for one, row in _summarised()]
    times = Counter(row["text"] for _, row in found)
    everyone = list(dict.fromkeys(row["summary"] for _, row in found))
    own: dict[str, dict[str, None]] = {}
    for module, row in found:
        own.setdefault(module, {})[row["summary"]] = None
    for module, row in found:
        if times[row["text"]] > 1:  # two first lines are right
            continue
        right = row["summary"]
        rng = random.Random(row["text"])
        near = [one for one in own[module] if one != right]  # a small module has too few
        wrong = near if len(near) >= 3 else [one for one in rng.sample(everyone, 4) if one != right]
        choices = rng.sample(wrong, 3)
        answer = rng.randrange(4)
        choices.insert(answer, right)
        yield {"question": row["text"], "choices": choices, "answer": answer}


def _docstring_questions() -> Iterator[dict[str, Any]]:
    """Questions about the library, answered by the first sentence of a docstring; {prompt, response}."""
    asked: set[str] = set()
    for found in _library():
        module = _KNOWN_AS.get(found.module, found.module)
        name = f"{module}.{found.name}".rstrip(".")
        answer = _first_sentence(found.text)
        public = not any(part.startswith("_") for part in name.split("."))
        if found.kind != "reference" and public and name not in asked and answer is not None:
            asked.add(name)
            ends = "do" if found.kind in ("function", "method") else "offer" if found.kind == "module" else "stand for"
            yield {"prompt": f"What does the Python {found.kind} `{name}` {ends}?", "response": answer}


def _docstring_preferences() -> Iterator[dict[str, Any]]:
    """The same questions with two answers: its own first sentence, or another's; {prompt, chosen, rejected}.

    Both are right of something, and of one length where it can be had: only what they say tells which is meant.
    """
    waiting: dict[int, dict[str, Any]] = {}  # by the number of words, the question that waits for another
    for row in _docstring_questions():
        words = len(row["response"].split()) // 3
        other = waiting.pop(words, None)
        if other is None or other["response"] == row["response"]:
            waiting[words] = row
            continue
        for one, rejected in ((other, row), (row, other)):
            yield {"prompt": one["prompt"], "chosen": one["response"], "rejected": rejected["response"]}


def _python_tokens() -> Iterator[dict[str, Any]]:
    """Lines of the library's source, with what is called, defined, imported, passed or taken in BIO; {tokens, tags}."""
    listing = [(short, path.stat().st_size) for short, path in _files()]
    tagger = hashlib.sha256(Path(python_lines.__file__).read_bytes() + Path(__file__).read_bytes()).hexdigest()
    about = json.dumps(["tokens", sys.version, sys.implementation.name, listing, tagger])

    def make(folder: Path) -> None:
        seen: set[str] = set()
        with (folder / "lines.jsonl").open("w", encoding="utf-8") as file:
            for short, path in _files():
                for row in tagged_lines(path.read_bytes()) if _one_of(4, short) else ():
                    written = json.dumps(row)
                    if _one_of(2, written) and written not in seen:
                        seen.add(written)
                        file.write(written + "\n")

    folder = cache.once("builtin", hashlib.sha256(about.encode()).hexdigest(), make)
    with (folder / "lines.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _docstring_answers() -> Iterator[dict[str, Any]]:
    """What something of a module does, in docstrings of four things of it, or not; {id, question, context, answers}.

    The answer is the first sentence of its docstring. One question of four is about a thing that isn't there.
    """
    modules: dict[str, dict[str, str]] = {}
    for found in _library():
        public = found.name and not any(part.startswith("_") for part in found.name.split("."))
        if found.kind in ("class", "function", "method") and public and _first_sentence(found.text) is not None:
            paragraph = " ".join(found.text.split("\n\n", 1)[0].split())
            module = _KNOWN_AS.get(found.module, found.module)
            if len(paragraph) <= 250:
                modules.setdefault(module, {}).setdefault(found.name, paragraph)
    for module, documented in modules.items():
        names = sorted(documented, key=lambda name: hashlib.sha256(f"{module}.{name}".encode()).digest())
        for first in range(0, len(names) - 4, 4):
            group, other = names[first : first + 4], names[first + 4]
            context = " ".join(f"{name}: {documented[name]}" for name in group)
            for asked in [*group[:3], other]:
                start = 0 if asked == group[0] else context.find(f" {asked}: ") + 1
                answer = _first_sentence(documented[asked]) or ""
                place = start + len(asked) + 2
                there = context[place : place + len(answer)] == answer and asked in group
                answers = {"text": [answer], "answer_start": [place]} if there else {"text": [], "answer_start": []}
                if there or asked == other:
                    yield {"id": f"{module}.{asked}", "question": f"What does {asked} of {module} do?",
                           "context": context, "answers": answers}


def _one_of(many: int, text: str) -> bool:
    """Whether a text is one of the chosen, drawn by its content."""
    return hashlib.sha256(text.encode()).digest()[0] % many == 0
def _python_to_english() -> Iterator[dict[str, Any]]:
    """Short functions of the library, and in English what each does: its docstring's first line; {source, target}."""
    seen: set[tuple[str, str]] = set()
    for found in _library():
        line = found.text.partition("\n")[0].strip()
        says = len(line.split()) >= 3 and line.endswith(".")
        if says and 0 < len(found.code) <= 600 and (found.code, line) not in seen:
            seen.add((found.code, line))
            yield {"source": found.code, "target": line}


def _first_sentence(text: str) -> str | None:
    """The first sentence as one line; None where the docstring doesn't open with one of four words or more."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    sentence = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.) (?=[A-Z`'\"(])", paragraph, maxsplit=1)[0]
    opens = re.match(r"[A-Z][a-z]*[ ,'-]|[A-Z]+ ", sentence)
    return sentence if opens and len(sentence.split()) >= 4 and sentence.endswith((".", "!")) else None


_SETS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
    "python-docs": _python_docs,
    "docstring-summaries": _docstring_summaries,
    "docstring-topics": _docstring_topics,
    "docstring-labels": _docstring_labels,
    "docstring-choices": _docstring_choices,
    "docstring-preferences": _docstring_preferences,
    "docstring-questions": _docstring_questions,
    "docstring-answers": _docstring_answers,
    "python-tokens": _python_tokens,
    "python-to-english": _python_to_english,
}


def names() -> tuple[str, ...]:
    """What can stand after `builtin:`."""
    return tuple(_SETS)


def _set(name: str) -> Callable[[], Iterator[dict[str, Any]]]:
    if name not in _SETS:
        raise RequestError(f"no built-in text is called {name!r}.{nearest(name, _SETS)}")
    return _SETS[name]


def describe(name: str) -> str:
    """One line on what a set holds, with its fields."""
    return inspect.getdoc(_set(name)) or ""


def rows(name: str) -> Iterator[tuple[dict[str, Any], Place]]:
    """The rows of a set, each with its number from 1; the same in the same order for the same Python.

    Raises RequestError for a name that isn't there (on the call, before the first row).
    """
    read = _set(name)
    return ((row, Place(f"builtin:{name}", number)) for number, row in enumerate(read(), 1))


def fingerprint(name: str) -> str:
    """SHA-256 (hex) of the rows as this Python yields them."""
    digest = hashlib.sha256()
    for row, _ in rows(name):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
