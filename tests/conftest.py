"""What the tests share: text, tiny recipes and a cache of their own. Nothing touches a network."""

import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["LLMKIT_OFFLINE"] = "1"
os.environ["LLMKIT_LANG"] = "en"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from llmkit.backbones.base import Family
from llmkit.recipe import registry

gc.disable()  # until all is imported and collected: a quarter of that time went into looking for garbage in it
pytest_plugins = ["served", "boarded", "browsing"]


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """What is there after it stays to the end, so garbage is looked for among what comes later."""
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()

WHO, DID, WHAT = (words.split("|") for words in (
    "the cat|a dog|my friend|the old king|a small bird|the teacher|a tall tree",
    "saw|chased|found|loved|carried|painted|forgot",
    "the moon|a red ball|some bread|the long river|a hat|two stones|the open door"))


def stories(count: int, seed: int = 0) -> list[str]:
    """Documents of one to six short sentences: uneven, so that batches are ragged."""
    rng = random.Random(seed)
    return [" ".join(f"{rng.choice(WHO)} {rng.choice(DID)} {rng.choice(WHAT)} ." for _ in range(rng.randint(1, 6)))
            for _ in range(count)]


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests share one cache, and leave the user's alone."""
    os.environ["LLMKIT_CACHE"] = str(tmp_path_factory.getbasetemp().parent / "cache")


@pytest.fixture(autouse=True, scope="session")
def _unsynced() -> Iterator[None]:
    """No file waits for its disk: a process that is killed loses none of what it wrote, only a power cut would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file of 120 documents, a line each."""
    path = tmp_path_factory.mktemp("text") / "stories.txt"
    path.write_text("\n".join(stories(120)) + "\n")
    return path


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table with a label that can be learned: who did it."""
    path = tmp_path_factory.mktemp("rows") / "rows.csv"
    rows = [(story, "animal" if story.split()[1] in ("cat", "dog", "small") else "other") for story in stories(96, 1)]
    path.write_text("text,label\n" + "".join(f'"{story}",{label}\n' for story, label in rows))
    return path


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with answers of uneven length."""
    path = tmp_path_factory.mktemp("asked") / "asked.jsonl"
    rows = [{"prompt": f"what did {story.split(' .')[0]} do ?", "response": story} for story in stories(96, 2)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words with tags, a word a line: who did it, and what to."""
    path = tmp_path_factory.mktemp("tagged") / "tagged.conll"
    lines = []
    for story in stories(64, 3):
        for sentence in story.split(" .")[:-1]:
            who, what = (next(words for words in some if words in sentence).split() for some in (WHO, WHAT))
            between = sentence.split()[len(who) : -len(what)]
            tags = [f"{'B' if i == 0 else 'I'}-WHO" for i in range(len(who))] + ["O"] * len(between)
            tags += [f"{'B' if i == 0 else 'I'}-WHAT" for i in range(len(what))] + ["O"]
            lines += [f"{word} {tag}" for word, tag in zip([*who, *between, *what, "."], tags, strict=True)]
        lines.append("")
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about stories, in SQuAD's form: who did it first?"""
    path = tmp_path_factory.mktemp("questions") / "questions.json"
    paragraphs = []
    for i, story in enumerate(stories(64, 4)):
        who = next(words for words in WHO if story.startswith(words))
        paragraphs.append({"context": story, "qas": [{"id": f"q{i}", "question": "who ?", "answers": [
            {"text": who, "answer_start": 0}]}]})
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "stories", "paragraphs": paragraphs}]}, indent=1))
    return path


@pytest.fixture(scope="session")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences in a language and, word for word, in another."""
    path = tmp_path_factory.mktemp("parallel") / "pairs.jsonl"
    rows = [{"source": story, "target": story.replace("the", "das").replace("saw", "sah")}
            for story in (one.partition(".")[0] + "." for one in stories(48, 3))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def summarized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stories and who they are about."""
    path = tmp_path_factory.mktemp("summarized") / "rows.jsonl"
    rows = [{"text": story, "summary": " ".join(story.split()[:2])} for story in stories(48, 4)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A file's text, a list of rows, or rows one after the other, to a reader; rows stand in JSON lines."""
    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    def make(*content: Any, name: str = "rows.jsonl", **fields: str | int) -> Any:
        path = tmp_path / name
        if isinstance(content[0], str):
            path.write_text(content[0])
        else:
            write_rows(path, list(content) if isinstance(content[0], dict) else content[0])
        return open_source(Source(str(path), fields=fields))

    return make


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with one label or more, or none: what occurs in them."""
    things = ("moon", "hat", "ball")
    return write_rows(tmp_path_factory.mktemp("several") / "several.jsonl", [
        {"text": story, "labels": [thing for thing in things if thing in story]} for story in stories(96, 3)])


@pytest.fixture(scope="session")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts with a number: how long they are."""
    return write_rows(tmp_path_factory.mktemp("rated") / "rated.jsonl", [
        {"text": story, "label": len(story) / 100} for story in stories(96, 4)])


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of texts with a score: how many of their words they share."""
    rows = []
    for one, other in zip(stories(96, 5), stories(96, 6), strict=True):
        a, b = set(one.split()), set(other.split())
        rows.append({"sentence1": one, "sentence2": other, "score": len(a & b) / len(a | b)})
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture(scope="session")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with two to four choices."""
    rows = []
    for i, story in enumerate(stories(96, 7)):
        who = " ".join(story.split()[:2])
        wrong = [one for one in WHO if one != who][: 1 + i % 3]
        rows.append({"question": story, "choices": [*wrong[: i % 2], who, *wrong[i % 2 :]], "answer": i % 2})
    return write_rows(tmp_path_factory.mktemp("choices") / "choices.jsonl", rows)


@pytest.fixture(scope="session")
def preferred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions with two answers: the chosen one is what a story says."""
    rows = []
    for story in stories(48, 8):
        who = " ".join(story.split()[:2])
        rows.append({"prompt": " ".join(story.split()[:6]), "chosen": who,
                     "rejected": next(one for one in WHO if one != who)})
    return write_rows(tmp_path_factory.mktemp("preferred") / "preferred.jsonl", rows)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights with a tokenizer of the stories' words; no file says how it pools."""
    return random_encoder(tmp_path_factory.mktemp("encoder"), stories(80))


def random_encoder(folder: Path, texts: list[str], **config: Any) -> Path:
    """A small BERT whose tokenizer is trained on texts."""
    import torch
    from transformers import BertModel

    from llmkit.data import tokenizer as tokenizers

    trained = tokenizers.train(texts, "wordpiece", 300)
    torch.manual_seed(1)
    fields = {**SMALL["bert"], "initializer_range": 0.5, **config}
    BertModel(registry.find("backbones", "bert").config("tiny", fields, trained)).save_pretrained(folder)
    trained.save_pretrained(folder)
    return folder


FAMILIES: dict[str, type[Family]] = {
    name: registry.find("backbones", name) for name in registry.names("backbones") if name != "auto"}
"""Every family that has a file; auto is whatever a pretrained model is."""
STILL = {name: dict.fromkeys(family.still, 0.0) for name, family in FAMILIES.items()}
"""Every dropout of a family's config, at 0."""
SMALL = {name: family.small for name, family in FAMILIES.items()}
"""A tiny model made smaller still."""
_OF_SHAPE = {"encoder": "masked_lm", "decoder": "causal_lm", "encoder-decoder": "span_corruption",
             "permuted": "permuted_lm"}
OBJECTIVE = {**{name: _OF_SHAPE[family.shape] for name, family in FAMILIES.items()},
             "bart": "denoising", "transformer": "denoising"}
"""What each family is pretrained with here: what its shape is for; these two have no sentinels."""
WORDS = {**dict.fromkeys(FAMILIES, 300), "bert": 120, "electra": 120, "t5": 200, "umt5": 200}
"""Tokens of a family's tokenizer."""


DRAWN = ("tests/training/looking", "tests/cli/test_report_and_runs.py")
"""Where what a run draws is tested."""


@pytest.fixture(scope="module", autouse=True)
def _undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Elsewhere runs draw nothing, whatever their recipes say: a picture takes a second, and a run a tenth of one."""
    from llmkit.training.looking.drawing import Pictures

    if any(place in request.path.as_posix() for place in DRAWN):
        yield
        return
    make = Pictures.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pictures, "__init__", lambda self, run, on, began: make(self, run, False, began))
        yield


def tiny(family: str, data: Path, folder: Path, still: bool = False, **training: Any) -> dict[str, Any]:
    """A recipe that trains in a second."""
    return {
        "name": f"tiny-{family}",
        "backbone": {"family": family, "size": "tiny", "config": {**SMALL[family], **(STILL[family] if still else {})}},
        "tokenizer": {"train": {"vocab_size": WORDS[family]}},
        "data": {"train": str(data), "max_length": 32},
        "objective": {"name": OBJECTIVE[family]},
        "training": {"max_steps": 4, "global_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
                     "precision": "fp32", "figures": False, **training},
        "output_dir": str(folder),
    }


class Child:
    """The command line in a process of its own, forked from this one: the libraries are there already."""

    def __init__(
        self, words: list[str], said: Path, act: Callable[[], int] | None = None, **variables: str,
    ) -> None:
        """`act` is done instead of what the words say."""
        self.said = said
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(sink, 1)
                os.dup2(sink, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
                os.environ.update(variables)
                from llmkit.cli import main
                from llmkit.system import report

                report.log.handlers.clear()
                status = main(words) if act is None else act()
            finally:
                os._exit(status)
        self.status: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None while it runs; below 0, the signal that ended it."""
        if self.status is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if done else None
        return self.status

    def wait(self, seconds: float = 120) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
        assert self.status is not None, self.said.read_text()
        return self.status


def run_in_two(words: list[str], folder: Path) -> list[Child]:
    """The same command as both processes of a launch."""
    from llmkit.training.spread.launch import free_port

    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
             "GLOO_SOCKET_IFNAME": "lo"}
    return [Child(words, folder.with_suffix(f".{rank}.log"), RANK=str(rank), LOCAL_RANK=str(rank), **where)
            for rank in range(2)]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Run each process's command in this one: the libraries are there already."""
    import contextlib
    import io

    from llmkit.cli import main
    from llmkit.training.spread import launch

    started: list[list[str]] = []

    def start(command: list[str], variables: Any, said: Any) -> int:
        started.append(command)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            status = main(command[3:])
        said.write(err.getvalue().encode())
        return status

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "wait", lambda children: children[0])
    return started
