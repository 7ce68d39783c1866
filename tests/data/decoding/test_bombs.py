"""Files of a few bytes that unfold to very much: told as data that is wrong, before memory is taken."""

import bz2
import gzip
import json
import lzma
import re
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmkit.data import files
from llmkit.data.decoding import broken_json, packing
from llmkit.data.fields import MOST_COLUMNS, listed
from llmkit.data.formats import _array, _document, base, parquet
from llmkit.data.sources import open_source
from llmkit.data.tokenizer_files import MOST_ADDED, load
from llmkit.recipe import Source
from llmkit.system.errors import CheckpointError, DataError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".xz": lzma.compress, ".bz2": bz2.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
    ".lz4": lambda data: bytes(pa.compress(data, codec="lz4", asbytes=True))}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str) -> list[dict[str, Any]]:
    return [row for row, _ in open_source(Source(name)).rows()]


def refused(name: str) -> str:
    with pytest.raises(DataError) as caught:
        read(name)
    return str(caught.value)


# ---- packed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "pack"), PACKERS.items())
@pytest.mark.parametrize("line", [b'{"text": "%s"}\n' % (b"a" * 100_000), b'{"text": "a"}\n'], ids=["long", "short"])
def test_what_unfolds_to_very_much_is_told_with_both_numbers(
    line: bytes, suffix: str, pack: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing, "ROOM", 1 << 20)
    monkeypatch.setattr(packing, "RATIO", 20)
    packed = pack(line * (6_000_000 // len(line)))
    Path(f"x.jsonl{suffix}").write_bytes(packed)
    assert (f"x.jsonl{suffix}: its {len(packed):,} bytes unfold to more than {20 * len(packed) + (1 << 20):,}"
            in refused(f"x.jsonl{suffix}"))


def test_there_is_a_most_that_any_packed_file_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "MOST_UNPACKED", 1000)
    Path("x.txt.gz").write_bytes(gzip.compress(b"".join(b"line %d\n" % i for i in range(500))))
    assert "unfold to more than 1,000; of packed text, 200 times its size" in refused("x.txt.gz")


def test_a_bomb_takes_no_more_than_what_is_allowed() -> None:
    """A line of 400 million letters in 400 kB, as it would be sent: all of the allowed bytes are read, and no more."""
    with gzip.open("x.txt.gz", "wb", 9) as file:
        for _ in range(400):
            file.write(b"a" * 1_000_000)
    tracemalloc.start()
    assert "unfold to more than" in refused("x.txt.gz")
    assert tracemalloc.get_traced_memory()[1] < 8 * packing.ROOM
    tracemalloc.stop()


def test_text_that_repeats_itself_as_logs_do_is_read() -> None:
    body = "".join(f"2026-11-30 12:00:{i % 60:02d} INFO request {i % 50} done in 12 ms\n" for i in range(20_000))
    Path("x.txt.gz").write_bytes(gzip.compress(body.encode()))
    assert len(read("x.txt.gz")) == 20_000


# ---- long lines, large objects ------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may have 1,000 characters, a document 5,000."""
    for module in (base, _array, parquet):
        monkeypatch.setattr(module, "LONGEST", 1000)
    monkeypatch.setattr(_document, "LONGEST_DOCUMENT", 5000)
    for module in (_array, broken_json):
        monkeypatch.setattr(module, "CHUNK", 300)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["x.txt", "x.jsonl", "x.csv", "x.tsv"])
def test_a_line_that_is_too_long_is_told_with_its_number(name: str) -> None:
    first = {"x.jsonl": '{"text": "a"}', "x.csv": "text", "x.tsv": "text"}.get(name, "a")
    Path(name).write_text(f"{first}\nb\n" + "c" * 1001 + "\n" if "json" not in name else
                          f"{first}\n{first}\n" + json.dumps({"text": "c" * 1000}) + "\n")
    assert f"{name}:3: a line of more than 1,000 characters; cut it into lines that are documents." in refused(name)


@pytest.mark.usefixtures("short")
def test_the_longest_line_is_read() -> None:
    Path("x.txt").write_text("a" * 999 + "\n" + "b" * 1000)
    assert read("x.txt") == [{"text": "a" * 999}, {"text": "b" * 1000}]


@pytest.mark.usefixtures("short")
def test_an_object_of_an_array_that_is_too_long_is_told() -> None:
    Path("x.json").write_text(json.dumps([{"text": "a" * 900}, {"text": "b" * 1500}]))
    assert "x.json:1: an object of more than 1,000 characters." in refused("x.json")
    Path("y.json").write_text(json.dumps([{"text": "a" * 900}] * 10))
    assert len(read("y.json")) == 10


@pytest.mark.usefixtures("short")
def test_one_object_that_holds_all_rows_is_read_up_to_a_size() -> None:
    Path("x.json").write_text(json.dumps({"data": [{"text": "a" * 100}] * 60}))
    assert "x.json: one object of more than 5,000 characters; write an object a line (.jsonl)" in refused("x.json")
    Path("y.json").write_text(json.dumps({"data": [{"text": "a" * 100}] * 30}))
    assert len(read("y.json")) == 30


def test_usual_limits_are_far_above_what_people_have() -> None:
    assert files.LONGEST >= 120_000_000  # text8 is one line of 100 million characters
    assert (packing.RATIO, packing.ROOM) == (200, 64 << 20)


# ---- objects of many keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [
    {f"key{i}": i for i in range(60_000)}, {f"key{i}": "some words" for i in range(60_000)}], ids=["numbers", "texts"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv"])
def test_a_row_of_many_columns_is_told_in_no_time_and_few_words(name: str, row: dict[str, Any]) -> None:
    said = json.dumps(row) if name == "x.jsonl" else ",".join(row) + "\n" + ",".join(map(str, row.values()))
    Path(name).write_text(f"{said}\n")
    start = time.process_time()
    with pytest.raises(DataError, match=r"there is key0, key1, .*key199 and 59,800 more\.") as caught:
        list(open_source(Source(name)).documents())
    assert time.process_time() - start < 12
    assert len(str(caught.value)) < 20_000


def test_a_key_that_is_there_twice_is_found_among_many() -> None:
    keys = ", ".join(f'"k{i}": 1' for i in range(60_000))
    Path("x.jsonl").write_text(f'{{{keys}, "k59999": 2}}\n')
    start = time.process_time()
    assert "x.jsonl:1: bad JSON: the key 'k59999' is given twice." in refused("x.jsonl")
    assert time.process_time() - start < 8


def test_a_header_with_a_name_twice_is_found_among_many() -> None:
    Path("x.csv").write_text(",".join([f"c{i}" for i in range(60_000)] + ["c7"]) + "\n" + "x," * 60_000 + "x\n")
    start = time.process_time()
    assert "x.csv:1: the header has 'c7' twice." in refused("x.csv")
    assert time.process_time() - start < 12


def test_columns_are_listed_up_to_a_number() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == "none"
    assert listed(["a"] * MOST_COLUMNS).count("a") == MOST_COLUMNS
    assert listed(list(map(str, range(MOST_COLUMNS + 1500)))).endswith(", 199 and 1,500 more")


# ---- parquet ------------------------------------------------------------------------------------------------------


def test_rows_of_parquet_have_the_values_that_they_had(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {
        "text": ["a", None, "ü" * 300, "", "a"], "raw": [b"\0\xff", None, b"", b"x", b"x"], "n": [1, None, 3, 4, 5],
        "words": [["a", "b"], None, [], ["c", None], ["a"]], "of": [{"x": "y"}, None, {"x": None}, {"x": "z"}, None],
        "kind": pa.array(["p", "q", "p", None, "q"]).dictionary_encode(), "big": pa.array(list("abcde"),
            pa.large_string()), "text.with.dots": list("vwxyz")}
    pq.write_table(pa.table(columns), "x.parquet", row_group_size=2)
    wanted = pa.table(columns).to_pylist()
    assert read("x.parquet") == wanted
    monkeypatch.setattr(parquet, "BYTES", 1)
    assert read("x.parquet") == wanted


def test_parquet_that_unfolds_to_very_much_is_told() -> None:
    pq.write_table(pa.table({"text": ["a" * 2_000_000] * 60}), "x.parquet", use_dictionary=False, compression="zstd")
    assert re.search(r"x.parquet: its [\d,]+ bytes hold [\d,]+ bytes; at most [\d,]+ are read", refused("x.parquet"))


def test_a_text_that_stands_in_many_rows_is_held_once() -> None:
    """Six gigabytes for who decodes a thousand rows at once."""
    pq.write_table(pa.table({"text": ["a" * 6_000_000] * 30}), "x.parquet", compression="zstd")
    before = pa.default_memory_pool().max_memory()
    assert sum(len(row["text"]) for row, _ in open_source(Source("x.parquet")).rows()) == 180_000_000
    assert pa.default_memory_pool().max_memory() < before + 100_000_000


def test_parquet_with_a_value_very_often_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ROOM", 1000)
    monkeypatch.setattr(parquet, "RATIO", 10**6)
    monkeypatch.setattr(parquet, "VALUES", 10)
    pq.write_table(pa.table({"text": pa.nulls(3_000_000, pa.string())}), "x.parquet", compression="zstd")
    assert re.search(r"its [\d,]+ bytes hold 3,000,000 values; at most", refused("x.parquet"))
    pq.write_table(pa.table({"x": [[7] * 3_000_000]}), "x.parquet")
    assert "bytes hold 3,000,000 values" in refused("x.parquet")


@pytest.mark.usefixtures("short")
def test_a_row_of_parquet_that_is_too_large_is_told() -> None:
    pq.write_table(pa.table({"text": ["a" * 400], "more": ["b" * 601]}), "x.parquet")
    assert "x.parquet: a row of 1,001 bytes; at most 1,000 are read." in refused("x.parquet")


@pytest.mark.parametrize(("columns", "most"), [
    ({"text": ["a" * 100] * 5000}, 1024), ({"text": [str(i) * 5000 for i in range(1000)]}, 8),
    ({"n": [list(range(1000))] * 1000}, 8), ({"words": [["a" * 50_000] * 10] * 1000}, 1),
], ids=["small", "large", "lists", "repeated"])
def test_rows_are_read_as_many_at_once_as_their_bytes_allow(
    columns: dict[str, Any], most: int, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parquet, "BYTES", 100_000)
    pq.write_table(pa.table(columns), "x.parquet")
    sizes: list[int] = []
    usual = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, batch_size: int, **more: Any) -> Any:
        sizes.append(batch_size)
        return usual(self, batch_size, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert read("x.parquet") == pa.table(columns).to_pylist()
    assert max(sizes) <= most


# ---- added tokens -------------------------------------------------------------------------------------------------


def tokenizer(folder: Path, added: Any, name: str = "tokenizer.json", key: str = "added_tokens") -> Path:
    from transformers import GPT2Tokenizer

    GPT2Tokenizer(vocab={"<|endoftext|>": 0, "a": 1, "b": 2}, merges=[]).save_pretrained(folder)
    path = folder / name
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(added if name == "added_tokens.json" else {**said, key: added}))
    return folder


def token(number: int, content: str) -> dict[str, Any]:
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


@pytest.mark.parametrize(("name", "key", "many"), [
    ("tokenizer.json", "added_tokens", [token(i, f"t{i}") for i in range(MOST_ADDED + 1)]),
    ("tokenizer_config.json", "added_tokens_decoder", {str(i): token(i, f"t{i}") for i in range(MOST_ADDED + 1)}),
    ("tokenizer_config.json", "additional_special_tokens", [f"t{i}" for i in range(MOST_ADDED + 1)]),
    ("tokenizer_config.json", "extra_special_tokens", [f"t{i}" for i in range(MOST_ADDED + 1)]),
    ("special_tokens_map.json", "additional_special_tokens", [f"t{i}" for i in range(MOST_ADDED + 1)]),
    ("added_tokens.json", "", {f"t{i}": i for i in range(MOST_ADDED + 1)}),
], ids=lambda value: value if isinstance(value, str) else "")
def test_a_tokenizer_that_adds_very_many_tokens_is_told(name: str, key: str, many: Any, tmp_path: Path) -> None:
    folder = tokenizer(tmp_path / "t", many, name, key)
    with pytest.raises(CheckpointError, match=rf"{name}: adds 100,001 tokens one by one; at most 100,000 are taken"):
        load(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "added_tokens.json"])
def test_an_added_token_that_is_very_long_is_told(name: str, tmp_path: Path) -> None:
    long: Any = [token(3, "a" * 10**6)] if name == "tokenizer.json" else {"a" * 10**6: 3}
    with pytest.raises(CheckpointError, match=rf"{name}: adds a token of 1,000,000 characters; at most 1,000"):
        load(tokenizer(tmp_path / "t", long, name))


def test_usual_added_tokens_are_taken(tmp_path: Path) -> None:
    added = [token(0, "<|endoftext|>"), *(token(3 + i, f"<t{i}>") for i in range(300))]
    assert load(tokenizer(tmp_path / "t", added)).convert_tokens_to_ids("<t299>") == 302
