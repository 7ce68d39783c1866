"""Search: the right passage at the right place, and an index that knows what changed."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Child, random_encoder, stories
from transformers import GPT2Config, GPT2Model

import llmkit
from llmkit.cli import main
from llmkit.inference import indexing
from llmkit.inference import search as searching
from llmkit.inference.embedding import Embedder
from llmkit.inference.indexing import Index
from llmkit.inference.search import Searcher
from llmkit.system.errors import DataError, RequestError


@pytest.fixture(scope="module")
def opened(encoder):
    return Embedder.open(encoder)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    """Files of several kinds, each with one sentence of its own in a known line."""
    files = {
        "a.txt": "the cat saw the moon .\na dog chased a hat .\n",
        "notes/b.md": "# stories\n\nmy friend found two stones .\n\nthe teacher painted a hat .\n",
        "c.py": 'def f():\n    """a small bird carried some bread ."""\n',
        "d.jsonl": '{"text": "the old king loved the moon ."}\n{"text": "a tall tree saw a dog .", "title": "tree"}\n',
        "e.csv": "text,label\nthe teacher forgot the open door .,1\n",
        "f.html": "<h1>red</h1>\n<script>x</script>\n<p>a red ball found\nthe long river .</p>",
    }
    for name, text in files.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_text(text)
    return tmp_path / "here"


@pytest.mark.parametrize(("query", "place"), [
    ("the cat saw the moon .", "here/a.txt:1"),
    ("a dog chased a hat .", "here/a.txt:2"),
    ("# stories\n\nmy friend found two stones .", "here/notes/b.md:1"),
    ("the teacher painted a hat .", "here/notes/b.md:5"),
    ('def f():\n    """a small bird carried some bread ."""', "here/c.py:1"),
    ("the old king loved the moon .", "here/d.jsonl:1"),
    ("tree\na tall tree saw a dog .", "here/d.jsonl:2"),
    ("the teacher forgot the open door .", "here/e.csv:2"),
    ("red a red ball found the long river .", "here/f.html:1"),
])
def test_a_text_is_found_where_it_stands(folder, opened, query, place):
    hit = Searcher.open("here", opened).search([query], 1)[0][0]
    assert (f"{hit.file}:{hit.line}", hit.score) == (place, pytest.approx(1, abs=1e-3))


def test_the_order_is_that_of_all_cosines(tmp_path, opened):
    lines = sorted(set(stories(60, 21)))
    (tmp_path / "all.txt").write_text("\n".join(lines))
    hits = llmkit.search("the cat saw a dog .", tmp_path / "all.txt", opened, top=7)
    vectors = opened.embed(["the cat saw a dog .", *lines])
    cosines = vectors[1:] @ vectors[0] / np.linalg.norm(vectors[1:], axis=1) / np.linalg.norm(vectors[0])
    best = np.argsort(-cosines)[:7]
    assert [hit.text for hit in hits] == [lines[i] for i in best]
    assert [hit.line for hit in hits] == [i + 1 for i in best]
    assert [hit.score for hit in hits] == pytest.approx(cosines[best].tolist(), abs=1e-4)


def test_only_what_is_new_is_embedded(folder, opened, monkeypatch):
    seen: list[str] = []
    embed = Embedder.embed
    monkeypatch.setattr(Embedder, "embed", lambda self, texts, role=None, done=None: (
        seen.extend(texts if role == "document" else []), embed(self, texts, role, done))[1])

    def indexed():
        seen.clear()
        searcher = Searcher.open("here", opened)
        assert searcher.indexed["embedded"] == len(seen)
        assert len(list((Path(os.environ["LLMKIT_CACHE"]) / "search").glob("*/[!.]*"))) == 2  # an index, and no pieces
        return searcher, list(seen)

    searcher, new = indexed()
    assert searcher.indexed == {"files": 6, "passages": 9, "embedded": 9, "passed_over": {}}
    assert indexed()[1] == []
    with (folder / "a.txt").open("a") as file:
        file.write("the cat forgot a dog .\n")
    searcher, new = indexed()
    assert new == ["the cat forgot a dog ."]
    assert searcher.search(["the cat forgot a dog ."], 1)[0][0].line == 3
    (folder / "a.txt").rename(folder / "z.txt")
    searcher, new = indexed()
    assert new == []
    assert searcher.search(["the cat forgot a dog ."], 1)[0][0].file == "here/z.txt"
    (folder / "z.txt").unlink()
    searcher, new = indexed()
    assert (new, searcher.indexed["passages"]) == ([], 7)
    assert "z.txt" not in {hit.file for hit in searcher.search(["the cat forgot a dog ."], 7)[0]}
    # a change that leaves size and time as they were
    before = (folder / "c.py").stat()
    (folder / "c.py").write_text((folder / "c.py").read_text().replace("bird", "moon"))
    os.utime(folder / "c.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(indexed()[1]) == 1


def test_an_interrupted_index_goes_on_where_it_stopped(folder, opened, monkeypatch):
    monkeypatch.setattr(indexing, "PIECE", 2)
    embed, calls = Embedder.embed, 0

    def breaks_off(self, texts, role=None, done=None):
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return embed(self, texts, role)

    monkeypatch.setattr(Embedder, "embed", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        Searcher.open("here", opened)
    assert not list((Path(os.environ["LLMKIT_CACHE"]) / "search").glob("*/[!p]*"))  # no half index
    monkeypatch.setattr(Embedder, "embed", embed)
    searcher = Searcher.open("here", opened)
    assert searcher.indexed["embedded"] == 3  # of 9
    whole = np.array(searcher.index.vectors)
    texts = [indexing.titled(*searcher.index.text(row)) for row in range(9)]
    np.testing.assert_allclose(whole, indexing.unit(opened.embed(texts)), atol=1e-5)


def test_two_processes_index_at_once(tmp_path, encoder):
    (tmp_path / "all.txt").write_text("\n".join(stories(200, 22)))
    words = ["search", "the cat", "--in", "all.txt", "--model", str(encoder), "--json"]
    both = [Child(words, tmp_path / f"{i}.log", OMP_NUM_THREADS="1") for i in range(2)]
    assert [child.wait() for child in both] == [0, 0]
    first, second = (json.loads(child.said.read_text().splitlines()[-1]) for child in both)
    assert first["results"] == second["results"]
    assert first["indexed"]["passages"] == second["indexed"]["passages"]


def test_a_file_that_changes_while_it_is_indexed_is_listed_again(folder, opened, monkeypatch):
    listed, times = searching.listed, 0

    def slow(places):
        nonlocal times
        times += 1
        found = listed(places)
        if times == 1:
            (folder / "a.txt").write_text("the cat painted the moon .\n")
            (folder / "c.py").unlink()
        return found

    monkeypatch.setattr(searching, "listed", slow)
    monkeypatch.setattr(indexing, "listed", slow)
    searcher = Searcher.open("here", opened)
    assert (times, searcher.indexed["files"]) == (2, 5)
    assert searcher.search(["the cat painted the moon ."], 1)[0][0].file == "here/a.txt"


def test_what_is_no_text_is_passed_over_and_said(folder, opened, caplog):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("hidden")
    (folder / "x.png").write_bytes(b"\x89PNG\0\0")
    (folder / "gb.txt").write_bytes("今天天气很好".encode("gb18030"))
    (folder / "no.txt").write_text("\n")
    (folder / "settings.json").write_text('{"a": [], "b": null}')
    (folder / "tsconfig.json").write_text("{\n  // a comment\n}\n")
    (folder / "nothing.json").write_text("{}")
    (folder / "gone.txt").symlink_to("nowhere")
    with caplog.at_level("INFO", "llmkit"):
        searcher = Searcher.open("here", opened)
    assert searcher.indexed["passed_over"] == {
        "binary": 1, "empty": 1, "hidden": 1, "no UTF-8 text": 1, "with rows that can't be read": 1,
        "without a row that has a text": 2}
    assert searcher.indexed["files"] == 6
    assert "passed over: 1 binary (here/x.png); 1 empty (here/no.txt); 1 hidden (here/.git); 1 no" in caplog.text


def test_a_text_that_stands_twice_is_found_once(tmp_path, opened):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("the cat saw the moon .\n" + f"a dog found {name} .\n")
    hits = llmkit.search("the cat saw the moon .", ["a.txt", "b.txt", "c.txt", "a.txt"], opened, top=3)
    assert [hit.text for hit in hits].count("the cat saw the moon .") == 1
    assert (len({hit.text for hit in hits}), hits[0].file, hits[0].line) == (3, "a.txt", 1)


def test_the_closest_of_many_are_exact_in_blocks(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((500, 8)).astype(np.float32)
    vectors[450:] = vectors[:50]  # texts that stand twice
    for name, array in {"vectors": vectors, "files": np.zeros(500, np.int32), "lines": np.arange(500),
                        "digests": np.arange(500).astype(np.uint64) % 450, "ends": np.arange(500)}.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "texts.bin").write_bytes(b"x")
    monkeypatch.setattr(indexing, "BLOCK", 64)
    index, queries = Index(tmp_path), rng.standard_normal((3, 8)).astype(np.float32)
    assert isinstance(index.vectors, np.memmap)
    for query, found in zip(queries, index.closest(queries, 100), strict=True):
        expected = np.argsort(-(vectors[:450] @ query), kind="stable").tolist()
        assert [row for _, row in found] == expected[:100]
        assert [score for score, _ in found] == pytest.approx((vectors[[row for _, row in found]] @ query).tolist())
    assert len(index.closest(queries, 1000)[0]) == 450


def test_an_approximate_search_finds_nearly_what_an_exact_one_does(tmp_path, opened, monkeypatch, caplog):
    pytest.importorskip("faiss", reason="the extra `search` isn't installed")
    (tmp_path / "all.txt").write_text("\n".join(stories(400, 24)))
    exact = Searcher.open("all.txt", opened)
    with caplog.at_level("INFO", "llmkit"):
        assert Searcher.open("all.txt", opened, approximate=True).index.near is None
    assert "below 20,000 passages search is exact" in caplog.text
    monkeypatch.setattr(indexing, "LARGE", 100)
    close = Searcher.open("all.txt", opened, approximate=True)
    assert close.indexed["embedded"] == 0
    assert close.index.near.recall >= 0.99
    queries = stories(20, 25)
    both = [[{hit.text for hit in hits} for hits in one.search(queries, 10)] for one in (exact, close)]
    assert sum(len(a & b) for a, b in zip(*both, strict=True)) >= 0.95 * 200
    assert close.search([exact.index.text(7)[1]], 1)[0][0].score == pytest.approx(1, abs=1e-3)


def test_without_faiss_an_approximate_search_says_what_to_install(folder, opened, monkeypatch):
    monkeypatch.setattr(indexing, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'llmkit-train\[search\]'"):
        Searcher.open("here", opened, approximate=True)


def test_a_row_that_cannot_be_read_is_told_with_its_line(folder, opened):
    (folder / "broken.jsonl").write_text('{"text": "a cat"}\n{')
    with pytest.raises(DataError, match=r"here/broken\.jsonl:2: bad JSON"):
        Searcher.open("here", opened)


def test_a_row_without_a_field_for_its_text_is_all_its_cells(tmp_path, opened):
    (tmp_path / "t.csv").write_text("who,did\nthe cat,saw\na dog,chased\n")
    hit = llmkit.search("who: a dog\ndid: chased", "t.csv", opened, top=1)[0]
    assert (hit.text, hit.line, hit.score) == ("who: a dog\ndid: chased", 3, pytest.approx(1, abs=1e-3))


def test_a_long_row_is_found_by_its_part_below_its_title(tmp_path, opened):
    rows = [{"title": "moon", "text": " ".join(stories(30, 23))}, {"title": "hat", "text": "a dog saw a hat ."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    searcher = Searcher.open("rows.jsonl", opened)
    hit = searcher.search(["hat\na dog saw a hat ."], 1)[0][0]
    assert hit.as_json() == {"score": pytest.approx(1, abs=1e-3), "file": "rows.jsonl", "line": 2,
                             "text": "a dog saw a hat .", "title": "hat"}
    assert len(searcher.index) > 5
    texts = [indexing.titled(*searcher.index.text(row)) for row in range(len(searcher.index))]
    ids, cut = opened.ids(texts)
    assert (cut, opened.max_length) == (0, 64) and max(map(len, ids)) > 40


def test_chinese_is_searched_by_a_chinese_encoder(tmp_path):
    text = "今天天气很好。我们去公园散步吧！你觉得怎么样？\n猫在看月亮。狗追一顶帽子。\n老师忘记关门了。\n"
    (tmp_path / "中文.txt").write_text(text)
    encoder = random_encoder(tmp_path / "encoder", text.splitlines() * 20)
    hits = llmkit.search("老师忘记关门了。", "中文.txt", str(encoder), top=1)
    assert (hits[0].file, hits[0].line, hits[0].text) == ("中文.txt", 3, "老师忘记关门了。")
    assert hits[0].score == pytest.approx(1, abs=1e-3)


# ---- the command -------------------------------------------------------------------------------------------------


def test_the_json_has_places_and_what_was_indexed(folder, encoder, capsys):
    words = ["search", "a dog chased a hat .", "--in", "here", "--model", str(encoder), "--top", "2", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["query"], found["model"], len(found["results"])) == ("a dog chased a hat .", str(encoder), 2)
    assert found["results"][0] == {"score": 1.0, "file": "here/a.txt", "line": 2, "text": "a dog chased a hat ."}
    assert found["indexed"] == {"files": 6, "passages": 9, "embedded": 9, "passed_over": {}}


def test_queries_from_stdin_share_a_model(folder, encoder, capsys, monkeypatch):
    times, open_ = [], Embedder.open.__func__
    monkeypatch.setattr(Embedder, "open", classmethod(
        lambda cls, name, *how: (times.append(name), open_(cls, name, *how))[1]))
    monkeypatch.setattr("sys.stdin", io.StringIO("a dog chased a hat .\n\nthe cat saw the moon .\n"))
    words = ["search", "-", "--in", "here/a.txt", "here/c.py", "--model", str(encoder), "--top", "1"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out == ("\na dog chased a hat .\n\n1.000  here/a.txt:2\n       a dog chased a hat .\n\n"
                   "\nthe cat saw the moon .\n\n1.000  here/a.txt:1\n       the cat saw the moon .\n\n")
    assert times == [str(encoder)]
    monkeypatch.setattr("sys.stdin", io.StringIO("a dog\na hat\n"))
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["query"] for one in found] == ["a dog", "a hat"]


@pytest.mark.parametrize(("words", "status", "message"), [
    (["cat", "--in", "hree"], 3, "hree: no such file or folder. Did you mean 'here'?"),
    (["cat", "--in", "empty"], 3, "empty: there is no text to search: is empty."),
    (["cat", "--in", "here/x.bin"], 3, "here/x.bin: is binary; only text can be searched."),
    (["cat", "--in", "builtin:python-dosc"], 2, "Did you mean 'python-docs'?"),
    (["how", "to", "--in", "here"], 3, "to: no such file or folder."),
    (["cat", "--in", "here", "--model", "gpt2"], 2, "no sentence encoder: a gpt2 is made to write text"),
    (["cat", "--in", "here", "--passage-tokens", "1000"], 2, "--passage-tokens 1000: ENCODER reads 62 at once"),
    (["cat", "--in", "here", "--passage-tokens", "2"], 2, "a passage needs 8 tokens or more"),
    (["cat", "--in", "here", "--top", "0"], 2, "--top 0"),
    ([" ", "--in", "here"], 2, "the query is empty"),
])
def test_what_cannot_be_searched_is_told_in_one_line(folder, encoder, capsys, words, status, message):
    Path("empty").mkdir()
    (folder / "x.bin").write_bytes(b"\0")
    GPT2Model(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=1)).config.save_pretrained("gpt2")
    model = [] if "--model" in words else ["--model", str(encoder)]
    assert main(["search", *words, *model]) == status
    captured = capsys.readouterr()
    assert message.replace("ENCODER", str(encoder)) in captured.err.splitlines()[-1]
    assert captured.out == ""


def test_asking_for_nothing_is_refused(folder, opened):
    with pytest.raises(RequestError, match="--top 0"):
        llmkit.search("cat", "here", opened, top=0)
    with pytest.raises(DataError, match="no such file"):
        llmkit.search("cat", "nowhere", opened)
