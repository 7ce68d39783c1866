"""Sets of rows made of the library's docstrings and source: text, and labelled rows for each kind of task."""

import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmkit.data.builtin import chinese, jobs, library, python_lines
from llmkit.data.builtin.python_lines import tagged_lines
from llmkit.system import cache

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


def _python_docs() -> Iterator[dict[str, Any]]:
    """Real English, about 2 MB: Python's language reference and the docstrings of its library; {text, title}."""
    for doc in library.docstrings():
        module = library.KNOWN_AS.get(doc.module, doc.module)
        title = f"{module}.{doc.name}".rstrip(".") if doc.kind != "reference" else doc.name
        yield {"text": doc.text, "title": title or module.rpartition(".")[2]}


def _docstring_summaries() -> Iterator[dict[str, Any]]:
    """The first line of a docstring, to be written from the rest of it; {text, summary}."""
    return (row for _, row in _summarised())


def _summarised() -> Iterator[tuple[library.Docstring, dict[str, Any]]]:
    for doc in library.docstrings():
        if doc.kind == "reference":
            continue
        summary, _, rest = doc.text.partition("\n")
        # PEP 257: a summary is a line by itself, with a blank line after it
        if rest.startswith("\n") and len(summary.split()) >= 3 and len(rest.split()) >= 20:
            yield doc, {"text": rest.strip("\n"), "summary": summary.strip()}


def _docstring_topics() -> Iterator[dict[str, Any]]:
    """Which part of the library a docstring of at least eight words is from; {text, label}."""
    for doc in library.docstrings():
        topic = TOPICS.get(doc.module.partition(".")[0])
        if topic is not None and len(doc.text.split()) >= 8:
            yield {"text": doc.text, "label": topic}


def _docstring_labels() -> Iterator[dict[str, Any]]:
    """Of what a docstring is: module, class, function or method, and which part of the library; {text, labels}."""
    for doc in library.docstrings():
        if doc.kind != "reference" and len(doc.text.split()) >= 8:
            topic = TOPICS.get(doc.module.partition(".")[0])
            yield {"text": doc.text, "labels": [doc.kind, *([topic] if topic is not None else [])]}


def _docstring_choices() -> Iterator[dict[str, Any]]:
    """Which of four first lines of the same module the rest of a docstring belongs to; {question, choices, answer}."""
    pairs = [(doc.module, row) for doc, row in _summarised()]
    times = Counter(row["text"] for _, row in pairs)
    everyone = list(dict.fromkeys(row["summary"] for _, row in pairs))
    own: dict[str, dict[str, None]] = {}
    for module, row in pairs:
        own.setdefault(module, {})[row["summary"]] = None
    for module, row in pairs:
        if times[row["text"]] > 1:  # two first lines are right
            continue
        right = row["summary"]
        rng = random.Random(row["text"])
        near = [summary for summary in own[module] if summary != right]  # a small module has too few
        wrong = near if len(near) >= 3 else [summary for summary in rng.sample(everyone, 4) if summary != right]
        choices = rng.sample(wrong, 3)
        answer = rng.randrange(4)
        choices.insert(answer, right)
        yield {"question": row["text"], "choices": choices, "answer": answer}


def _docstring_questions() -> Iterator[dict[str, Any]]:
    """Questions about the library, answered by the first sentence of a docstring; {prompt, response}."""
    asked: set[str] = set()
    for doc in library.docstrings():
        module = library.KNOWN_AS.get(doc.module, doc.module)
        name = f"{module}.{doc.name}".rstrip(".")
        answer = _first_sentence(doc.text)
        public = not any(part.startswith("_") for part in name.split("."))
        if doc.kind != "reference" and public and name not in asked and answer is not None:
            asked.add(name)
            ends = "do" if doc.kind in ("function", "method") else "offer" if doc.kind == "module" else "stand for"
            yield {"prompt": f"What does the Python {doc.kind} `{name}` {ends}?", "response": answer}


def _docstring_preferences() -> Iterator[dict[str, Any]]:
    """Questions about the library with two answers: its own first sentence, or another's; {prompt, chosen, rejected}.

    Both are right of something, and of one length where it can be had: only what they say tells which is meant.
    """
    waiting: dict[int, dict[str, Any]] = {}  # by the number of words, the question that waits for another
    for row in _docstring_questions():
        words = len(row["response"].split()) // 3
        other = waiting.pop(words, None)
        if other is None or other["response"] == row["response"]:
            waiting[words] = row
            continue
        for chosen, rejected in ((other, row), (row, other)):
            yield {"prompt": chosen["prompt"], "chosen": chosen["response"], "rejected": rejected["response"]}


def _python_tokens() -> Iterator[dict[str, Any]]:
    """Lines of the library's source, with what is called, defined, imported, passed or taken in BIO; {tokens, tags}."""
    listing = [(short, path.stat().st_size) for short, path in library.modules()]
    tagger = hashlib.sha256(Path(python_lines.__file__).read_bytes() + Path(__file__).read_bytes()).hexdigest()
    about = json.dumps(["tokens", sys.version, sys.implementation.name, listing, tagger])

    def make(folder: Path) -> None:
        seen: set[str] = set()
        with (folder / "lines.jsonl").open("w", encoding="utf-8") as file:
            for short, path in library.modules():
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
    for doc in library.docstrings():
        public = doc.name and not any(part.startswith("_") for part in doc.name.split("."))
        if doc.kind in ("class", "function", "method") and public and _first_sentence(doc.text) is not None:
            paragraph = " ".join(doc.text.split("\n\n", 1)[0].split())
            module = library.KNOWN_AS.get(doc.module, doc.module)
            if len(paragraph) <= 250:
                modules.setdefault(module, {}).setdefault(doc.name, paragraph)
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
    for doc in library.docstrings():
        line = doc.text.partition("\n")[0].strip()
        says = len(line.split()) >= 3 and line.endswith(".")
        if says and 0 < len(doc.code) <= 600 and (doc.code, line) not in seen:
            seen.add((doc.code, line))
            yield {"source": doc.code, "target": line}


def _first_sentence(text: str) -> str | None:
    """The first sentence as one line; None where the docstring doesn't open with one of four words or more."""
    paragraph = " ".join(text.split("\n\n", 1)[0].split())
    sentence = re.split(r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.) (?=[A-Z`'\"(])", paragraph, maxsplit=1)[0]
    opens = re.match(r"[A-Z][a-z]*[ ,'-]|[A-Z]+ ", sentence)
    return sentence if opens and len(sentence.split()) >= 4 and sentence.endswith((".", "!")) else None


SETS: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
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
    "jobs": jobs.sentences,
    "chinese": chinese.texts,
    "tang-poems": chinese.tang_poems,
}
