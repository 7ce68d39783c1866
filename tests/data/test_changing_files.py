"""A file that changes while it is read: nothing that was made of it is kept under the name of what it was before."""

import gzip
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import stories, tiny

from llmkit import recipe as recipes
from llmkit.data import files
from llmkit.data import sources as source_module
from llmkit.data import tokenizer as tokenizers
from llmkit.data.formats import formats
from llmkit.data.search.folders import listed
from llmkit.data.sources import Reader, open_source
from llmkit.data.tokens import tokenize
from llmkit.planning.settle import settle
from llmkit.recipe import Source
from llmkit.system import cache
from llmkit.system.errors import DataError
from llmkit.training import prepare
from llmkit.training.fit import fit
from llmkit.training.spread.meeting import Meeting

SAID = "has changed while it was read, so nothing that was made of it is kept. Wait until"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tokenizers.train(stories(60), "bpe", 300)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[Path], object]], None]:
    """`during("text", act)`: act once on a file of a format, after its first row was read."""

    def arrange(name: str, act: Callable[[Path], object]) -> None:
        kind, done = formats()[name], list[Path]()
        usual = kind.rows

        def rows(path: Path, reader: Any) -> Iterator[Any]:
            for row in usual(path, reader):
                yield row
                if not done:
                    done.append(path)
                    act(path)

        monkeypatch.setattr(kind, "rows", rows)

    return arrange


def appended(content: bytes) -> Callable[[Path], object]:
    def act(path: Path) -> None:
        with path.open("ab") as file:
            file.write(content)

    return act


def replaced(content: bytes) -> Callable[[Path], object]:
    """Another file takes its name, as a download or an editor does it: who has the old one open reads that."""

    def act(path: Path) -> None:
        (path.parent / "new").write_bytes(content)
        os.replace(path.parent / "new", path)

    return act


TEXTS = stories(40)
WRITTEN = {
    "a.txt": "".join(f"{text}\n" for text in TEXTS).encode(),
    "a.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode(),
    "a.csv": ("text\n" + "".join(f'"{text}"\n' for text in TEXTS)).encode(),
    "a.txt.gz": gzip.compress("".join(f"{text}\n" for text in TEXTS).encode()),
}
NAMED = {"a.txt": "text", "a.jsonl": "jsonl", "a.csv": "csv", "a.txt.gz": "text"}


def opened(folder: Path, name: str) -> Reader:
    (folder / name).write_bytes(WRITTEN[name])
    return open_source(Source(str(folder / name)), "line")


# ---- tokens ----


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("way", ["grows", "is replaced", "is cut short"])
def test_tokens_of_a_file_that_changes_are_not_kept(
    name: str, way: str, tmp_path: Path, during: Callable[..., None], tokenizer: Any,
) -> None:
    more = {"a.txt.gz": gzip.compress(b"zebra\n"), "a.jsonl": b'{"text": "zebra"}\n'}.get(name, b"zebra\n")
    half = WRITTEN[name][: len(WRITTEN[name]) // 2]
    during(NAMED[name], {"grows": appended(more), "is replaced": replaced(WRITTEN[name] + more),
                         "is cut short": replaced(half)}[way])
    reader = opened(tmp_path, name)
    with pytest.raises(DataError) as error:
        tokenize(reader, tokenizer)
    assert f"{tmp_path / name}: {SAID}" in str(error.value)
    assert list((cache.root() / "tokens").iterdir()) == []


def test_what_it_was_is_read_anew_where_it_is_put_back(
    tmp_path: Path, during: Callable[..., None], tokenizer: Any,
) -> None:
    """The cache isn't poisoned: the old content gives the old tokens."""
    during("text", appended(b"zebra zebra\n"))
    with pytest.raises(DataError):
        tokenize(opened(tmp_path, "a.txt"), tokenizer)
    documents = tokenize(opened(tmp_path, "a.txt"), tokenizer)
    assert len(documents) == 40
    assert "zebra" not in tokenizer.decode(documents.ids)


def test_of_several_files_the_one_that_changed_is_named(
    tmp_path: Path, during: Callable[..., None], tokenizer: Any,
) -> None:
    for name in ("1.txt", "2.txt", "3.txt"):
        (tmp_path / name).write_bytes(WRITTEN["a.txt"])
    during("text", lambda path: appended(b"zebra\n")(path.parent / "3.txt"))
    with pytest.raises(DataError, match=r"3\.txt: has changed"):
        tokenize(open_source(Source(str(tmp_path / "*.txt")), "line"), tokenizer)


def test_new_times_alone_are_no_change(tmp_path: Path, during: Callable[..., None], tokenizer: Any) -> None:
    during("text", lambda path: os.utime(path, (1, 1)))
    assert len(tokenize(opened(tmp_path, "a.txt"), tokenizer)) == 40


def test_what_is_written_after_the_last_row_was_read_is_for_the_next_time(tmp_path: Path, tokenizer: Any) -> None:
    reader = opened(tmp_path, "a.txt")
    assert len(tokenize(reader, tokenizer)) == 40
    appended(b"zebra\n")(tmp_path / "a.txt")
    with pytest.raises(DataError, match="has changed"):  # this reader's tokens are of what was
        reader.unchanged()
    assert len(tokenize(open_source(Source(str(tmp_path / "a.txt")), "line"), tokenizer)) == 41


# ---- what else is kept by content ----


def test_a_tokenizer_trained_on_a_file_that_changes_is_not_kept(tmp_path: Path, during: Callable[..., None]) -> None:
    reader = opened(tmp_path, "a.txt")
    during("text", appended(b"zebra zebra\n"))
    with pytest.raises(DataError, match="has changed"):
        tokenizers.trained([reader.fingerprint()], lambda: (text for text, _ in reader.documents()), "bpe", 300)
    assert list((cache.root() / "tokenizers").iterdir()) == []


@pytest.mark.parametrize(("function", "kind", "asked"), [
    ("usual_document", "documents", "document"), ("oddities", "oddities", "odd")])
def test_what_was_concluded_of_a_large_file_that_changes_is_not_kept(
    function: str, kind: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_module, "LARGE", 10)
    usual = getattr(source_module, function)

    def changing(*given: Any) -> Any:
        found = usual(*given)
        appended(b"\n\nzebra\n")(tmp_path / "a.txt")
        return found

    (tmp_path / "a.txt").write_bytes(WRITTEN["a.txt"])
    reader = open_source(Source(str(tmp_path / "a.txt")))
    monkeypatch.setattr(source_module, function, changing)
    with pytest.raises(DataError, match="has changed"):
        getattr(reader, asked)
    assert list((cache.root() / kind).iterdir()) == []


# ---- a run ----


def test_a_run_whose_text_grows_ends_with_3_before_the_first_step(tmp_path: Path, during: Callable[..., None]) -> None:
    (tmp_path / "a.txt").write_bytes(WRITTEN["a.txt"])
    during("text", appended(b"zebra zebra\n"))
    with pytest.raises(DataError, match="has changed while it was read") as error:
        fit(recipes.load(tiny("gpt2", tmp_path / "a.txt", tmp_path / "run")))
    assert error.value.status == 3
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_rows_that_change_before_their_content_is_noted_are_seen(
    tmp_path: Path, labelled: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of a task are kept in memory: without this, the checkpoint would say that they are those of the new file."""
    data = tmp_path / "rows.csv"
    data.write_bytes(labelled.read_bytes())
    usual = prepare.rows

    def rows(settled: Any) -> Any:
        found = usual(settled)
        appended(b'"zebra","other"\n')(data)
        return found

    monkeypatch.setattr(prepare, "rows", rows)
    tree = tiny("bert", data, tmp_path / "run")
    del tree["objective"]
    with pytest.raises(DataError, match=r"rows\.csv: has changed"):
        fit(recipes.load({**tree, "task": "classification"}))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model with its tokenizer: a run that begins from it asks for no fingerprint to train one."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("base")
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=1)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ROWS = {"rows.csv": ("text,label\n", '"{}",{}\n', b"zebra,other\n", "csv"),
        "rows.jsonl": ("", '{{"text": "{}", "label": "{}"}}\n', b'{"text": "zebra", "label": "other"}\n', "jsonl"),
        "rows.tsv": ("text\tlabel\n", "{}\t{}\n", b"zebra\tother\n", "tsv")}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_a_task_that_change_while_they_are_read_end_the_run(
    name: str, base: Path, tmp_path: Path, during: Callable[..., None],
) -> None:
    """Alone, too: the run would learn from the old rows, and its checkpoints would say that they are the new file's."""
    head, line, more, kind = ROWS[name]
    data = tmp_path / name
    data.write_text(head + "".join(line.format(text, "ab"[number % 2]) for number, text in enumerate(TEXTS)))
    recipe = recipes.load({"backbone": {"pretrained": str(base)}, "task": "classification", "data": {
        "train": str(data)}, "training": {"max_steps": 1}, "output_dir": str(tmp_path / "run")})
    settled = settle(recipe)
    during(kind, appended(more))
    with pytest.raises(DataError, match=rf"{name}: {SAID}"):
        prepare.material(settled, Meeting())


@pytest.mark.parametrize("when", ["while it is read", "before its content is noted"])
def test_a_folder_of_datasets_that_changes_is_seen(when: str, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data = tmp_path / "set" / "train.jsonl"
    data.write_bytes(WRITTEN["a.jsonl"])
    reader = open_source(Source(str(tmp_path / "set")))
    if when == "while it is read":
        reader.content()
    rows = reader.rows()
    assert next(rows)[0]["text"] == TEXTS[0]
    appended(b'{"text": "zebra"}\n')(data)
    with pytest.raises(DataError, match=rf"train\.jsonl: {SAID}"):
        assert len(list(rows)) == len(TEXTS) - 1 and reader.content()


def test_a_folder_of_datasets_may_get_another_time(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    data = tmp_path / "set" / "train.jsonl"
    data.write_bytes(WRITTEN["a.jsonl"])
    reader = open_source(Source(str(tmp_path / "set")))
    said = reader.content()
    os.utime(data, (1, 1))
    assert len(list(reader.rows())) == len(TEXTS)
    assert reader.content() == said


# ---- nobody asked for a fingerprint ----


def test_rows_that_nothing_is_kept_of_may_grow(tmp_path: Path, during: Callable[..., None]) -> None:
    """A log that is predicted from: what is there at the end is read."""
    reader = opened(tmp_path, "a.jsonl")
    during("jsonl", appended(b'{"text": "zebra"}\n'))
    assert [row["text"] for row, _ in reader.rows()][-1] == "zebra"


def test_the_start_of_a_file_can_be_read_though_the_rest_has_changed(tmp_path: Path) -> None:
    reader = opened(tmp_path, "a.txt")
    reader.fingerprint()
    appended(b"zebra\n")(tmp_path / "a.txt")
    assert next(reader.documents())[0] == TEXTS[0]


def test_a_listing_for_a_search_says_that_its_rows_have_changed(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.txt"):
        (tmp_path / name).write_bytes(WRITTEN[name.replace("b", "a")])
    sources = listed([str(tmp_path)]).sources
    for source in sources:
        assert len(list(source.documents())) >= 1
        appended(b'{"text": "zebra"}\n')(tmp_path / source.inside)
        with pytest.raises(files.Changed):
            list(source.documents())
