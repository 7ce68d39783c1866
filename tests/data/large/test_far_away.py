"""Text that is far away: copied by ranges, kept in a bounded place, refused where it must be, and never told how."""

import hashlib
import json
import os
import pickle
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from conftest import stories
from transformers import AutoTokenizer

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.data import files, tokens
from llmkit.data.large import joined, remote
from llmkit.data.sources import open_source
from llmkit.planning import tokenizing
from llmkit.recipe import Source
from llmkit.system.addresses import masked
from llmkit.system.errors import DataError, PlaceError, RequestError

TEXT = "\n".join(stories(60)).encode() + b"\n"


class Store(BaseHTTPRequestHandler):
    """Answers as its path says."""

    def do_GET(self) -> None:
        path, _, asked = self.path.partition("?")
        tries = sum(said[0] == path for said in self.server.seen)
        self.server.seen.append((path, self.headers.get("Range"), self.headers.get("Authorization")))
        codes = {"/none.txt": 404, "/closed.txt": 403, "/busy.txt": 503}
        if path in codes or (path == "/signed.txt" and asked != "X-Amz-Signature=secret"):
            self.send_error(codes.get(path, 403))
            return
        leads = {"/leads.txt": "/a.txt", "/private.txt": "https://10.0.0.1/a.txt",
                 "/down.txt": "http://example.com/a.txt"}
        if path in leads:
            self.send_response(302)
            self.send_header("Location", leads[path])
            self.end_headers()
            return
        if path == "/tired.txt" and tries in (2, 3):  # as its second block is asked for, and once more
            self.send_error(503)
            return
        if path in ("/asleep.txt", "/drips.txt") and tries:
            self.send_response(206)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "1000")
            self.end_headers()
            for _ in range(20 if path == "/drips.txt" else 1):
                try:
                    self.wfile.write(b"a")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.03 if path == "/drips.txt" else 0.4)
            return
        start, stop = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = TEXT[start : stop + 1]
        if path == "/short.txt" and start:
            part = part[:-3]
        whole = path == "/whole.txt"
        self.send_response(200 if whole else 206)
        self.send_header("ETag", '"2"' if path == "/edited.txt" and start else '"1"')
        self.send_header("Content-Length", str(len(TEXT if whole else part)))
        self.send_header("Content-Range", f"bytes {start}-{stop}/{len(TEXT)}")
        self.end_headers()
        self.wfile.write(TEXT if whole else part)

    def log_message(self, *said: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def store() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def at(store, monkeypatch, tmp_path) -> str:
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "BLOCK", 1000)
    monkeypatch.setattr(remote, "PAUSES", (0.0, 0.0))
    store.seen.clear()
    return f"http://127.0.0.1:{store.server_port}"


def documents(address: str) -> list[str]:
    return [text for text, _ in open_source(Source(address)).documents()]


def test_text_is_read_by_ranges_once(at, store):
    assert documents(f"{at}/a.txt") == TEXT.decode().splitlines()
    ranges = [asked for _, asked, _ in store.seen]
    assert ranges == ["bytes=0-0", *(f"bytes={i}-{min(i + 1000, len(TEXT)) - 1}" for i in range(0, len(TEXT), 1000))]
    store.seen.clear()
    assert documents(f"{at}/a.txt") == TEXT.decode().splitlines()
    assert [asked for _, asked, _ in store.seen] == ["bytes=0-0"]  # only whether it is what it was


def test_a_host_without_ranges_sends_the_whole(at):
    assert documents(f"{at}/whole.txt") == TEXT.decode().splitlines()


def test_a_copy_that_was_cut_short_goes_on(at, store):
    path, = remote.brought(f"{at}/a.txt")
    path.rename(part := path.with_name(f".{path.name}.part"))
    part.write_bytes(TEXT[:2500])
    store.seen.clear()
    assert remote.brought(f"{at}/a.txt")[0].read_bytes() == TEXT
    assert [asked for _, asked, _ in store.seen][1] == "bytes=2000-2999"


@pytest.mark.parametrize(("path", "match"), [
    ("none.txt", r"none\.txt: there is no such file \(404\)"), ("closed.txt", r"closed\.txt: may not be read \(403\)"),
    ("busy.txt", "the host answers 503; try again later"),
    ("edited.txt", r'edited\.txt: has changed while it was read \(it was "1", and is "2"\); start again'),
    ("short.txt", "is truncated: 997 bytes came from byte 1,000"),
    ("down.txt", r"leads to http://example\.com/a\.txt, which isn't https"),
    ("private.txt", r"leads to 10\.0\.0\.1, which is in a private network")])
def test_what_goes_wrong_is_said_in_one_line(path, match, at):
    with pytest.raises(DataError, match=match):
        documents(f"{at}/{path}")


def test_a_host_that_fails_for_a_moment_is_asked_again(at, store, caplog):
    assert documents(f"{at}/tired.txt") == TEXT.decode().splitlines()
    assert [asked for _, asked, _ in store.seen][1:5] == ["bytes=0-999", *["bytes=1000-1999"] * 3]
    assert caplog.text.count("tired.txt: the host answers 503; try again later. It is asked again in 0 s.") == 2


@pytest.mark.parametrize(("path", "limit", "match"), [
    ("asleep.txt", "SECONDS", r"asleep\.txt: can't be reached: timed out"),
    ("drips.txt", "SLOW", r"drips\.txt: can't be reached: \d+ of 1,000 bytes came in 0\.1 s")])
def test_a_host_that_is_slow_is_asked_again_and_then_said(path, limit, match, at, store, monkeypatch):
    monkeypatch.setattr(remote, limit, 0.1)
    with pytest.raises(DataError, match=match):
        documents(f"{at}/{path}")
    assert [asked for _, asked, _ in store.seen] == ["bytes=0-0", *["bytes=0-999"] * 3]


def test_a_host_that_is_not_there_is_said(at):
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/a\.txt: can't be reached: .*refused"):
        documents("http://127.0.0.1:1/a.txt")


def test_a_redirect_within_the_host_is_followed(at):
    assert documents(f"{at}/leads.txt") == TEXT.decode().splitlines()


def test_offline_forbids_it_and_other_schemes_are_refused(at, monkeypatch, store):
    with pytest.raises(RequestError, match="plain http can be read and changed on its way; use https"):
        documents("http://example.com/a.txt")
    with pytest.raises(RequestError, match="ftp:// isn't known"):
        documents("ftp://example.com/a.txt")
    monkeypatch.setenv("LLMKIT_OFFLINE", "1")
    for address in (f"{at}/a.txt", "s3://bucket/a.txt", "https://example.com/a.txt"):
        with pytest.raises(DataError, match="--offline forbids every connection"):
            documents(address)
    assert store.seen == []


def test_no_more_is_kept_than_is_allowed(at, monkeypatch):
    first, = remote.brought(f"{at}/a.txt")
    monkeypatch.setenv("LLMKIT_FAR_CACHE", str(len(TEXT) * 1.5 / 1e9))
    second, = remote.brought(f"{at}/b.txt")
    assert second.is_file()
    assert not first.exists()
    monkeypatch.setenv("LLMKIT_FAR_CACHE", "0.000001")
    with pytest.raises(PlaceError, match=r"of such are kept here; allow more \(LLMKIT_FAR_CACHE=GB\)"):
        remote.brought(f"{at}/c.txt")
    monkeypatch.setenv("LLMKIT_FAR_CACHE", "much")
    with pytest.raises(RequestError, match="LLMKIT_FAR_CACHE=much: a number of gigabytes"):
        remote.brought(f"{at}/c.txt")


def test_what_opens_an_address_is_sent_and_never_said(at, store, tmp_path, capsys):
    secret = at.replace("://", "://me:hush@") + "/signed.txt?X-Amz-Signature=secret"
    assert documents(secret) == TEXT.decode().splitlines()
    assert store.seen[0][2] == "Basic bWU6aHVzaA=="
    tree = {"name": "r", "backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
            "data": {"train": secret}, "objective": "causal_lm"}
    said = recipes.dump(recipes.load(tree))
    reader = open_source(Source(secret))
    kept = "".join(path.read_text() for path in (tmp_path / "cache").rglob(".address"))
    assert "signed.txt" in kept
    (tmp_path / "r.yaml").write_text(said)
    assert main(["inspect", str(tmp_path / "r.yaml")]) == 2
    err = capsys.readouterr().err
    assert "in this recipe the address is masked" in err
    for where in (said, reader.label, kept, err, " ".join(reader.notes)):
        assert "hush" not in where
        assert "secret" not in where
    with pytest.raises(DataError) as error:
        documents(secret.replace("=secret", "=wrong"))
    assert "hush" not in str(error.value)
    assert "wrong" not in str(error.value)


@pytest.mark.parametrize(("text", "shown"), [
    ("s3://bucket/a.txt", "s3://bucket/a.txt"), ("a/b?c.txt", "a/b?c.txt"),
    ("at https://u:p@h/x?sig=1&b=2: no", "at https://…@h/x?…: no"),
    ("https://…@h/x?…: no", "https://…@h/x?…: no"), ("corpora/*.txt", "corpora/*.txt")])
def test_only_addresses_are_masked(text, shown):
    assert masked(text) == shown


@pytest.fixture
def bucket(monkeypatch, tmp_path) -> Iterator[object]:
    """fsspec's own file system in memory in the place of an object store."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    system = MemoryFileSystem()
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    monkeypatch.setattr(fsspec, "filesystem", lambda protocol, **options: system)
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_files_of_a_store_are_found_by_a_pattern(bucket):
    for i, part in enumerate((TEXT[:300], TEXT[300:])):
        bucket.pipe_file(f"/bucket/part-{i}.txt", part)
    found = remote.brought("s3://bucket/part-*.txt")
    assert b"".join(path.read_bytes() for path in found) == TEXT
    assert [path.name for path in found] == ["part-0.txt", "part-1.txt"]
    for address, match in (("s3://bucket/none.txt", r"no such file \(404\)"),
                           ("s3://bucket/x*.txt", "no file matches")):
        with pytest.raises(DataError, match=match):
            remote.brought(address)
    with pytest.raises(RequestError, match="leave name and password out; they are taken from where s3fs looks"):
        remote.brought("s3://key:secret@bucket/a.txt")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tokens, in several shards."""
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(TEXT)
    tree = {"name": "r", "backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
            "data": {"train": str(path)}, "objective": "causal_lm"}
    tokenizing.tokenize(recipes.load(tree), path.with_name("out"), 1, size=2000)
    return path.with_name("out")


@pytest.fixture
def stored(bucket, shards, monkeypatch) -> list[tuple[str, int, int]]:
    """The folder in the bucket, whose ids aren't small there; what is read of it, by (name, start, stop)."""
    for path in shards.rglob("*"):
        if path.is_file():
            bucket.pipe_file(f"/bucket/tokens/{path.relative_to(shards).as_posix()}", path.read_bytes())
    monkeypatch.setattr(remote, "BLOCK", 400)
    monkeypatch.setattr(joined, "PIECE", 256)
    read: list[tuple[str, int, int]] = []
    usual = bucket.cat_file

    def cat_file(path: str, *, start: int, end: int) -> bytes:  # of s3fs, the second place is a version's
        read.append((path.rpartition("tokens/")[2], start, end))
        return usual(path, start, end)

    monkeypatch.setattr(bucket, "cat_file", cat_file)
    return read


def both(shards: Path, far: str = "s3://bucket/tokens") -> tuple[tokens.Documents, tokens.Documents]:
    """The documents of the folder here, and of the one far away."""
    tokenizer = AutoTokenizer.from_pretrained(shards / "tokenizer")
    here, away = (tokens.tokenize(open_source(Source(f"tokens:{place}")), tokenizer)
                  for place in (shards, far))
    return here, away


def test_tokens_are_learned_from_far_away_and_only_what_is_asked_for_is_fetched(stored, shards):
    ours, theirs = (open_source(Source(f"tokens:{place}")) for place in ("s3://bucket/tokens", shards))
    assert ours.content() == theirs.content()
    ours = open_source(Source("tokens:s3://bucket/tokens:1"))  # the first of its sources, and the only one
    assert ours.content() == theirs.content()
    here, away = both(shards)
    assert [name for name, *_ in stored if "ids.bin" in name] == []
    last = len(here) - 1
    start, stop = int(here.starts[last]), int(here.stops[last])
    assert away.read(start, stop).tolist() == here.read(start, stop).tolist()
    fetched = [(begin, end) for name, begin, end in stored if "ids.bin" in name]
    assert 1 <= len(fetched) <= 1 + (stop - start) * 2 // 256 + 1
    assert all(end - begin <= 256 for begin, end in fetched)
    assert away.read(start, stop).tolist() == here.read(start, stop).tolist()
    copied = pickle.loads(pickle.dumps(away))  # as a loader's worker gets it
    assert copied.read(start, stop).tolist() == here.read(start, stop).tolist()
    assert len([name for name, *_ in stored if "ids.bin" in name]) == len(fetched)  # from the cache
    assert away.ids[0 : len(away.ids)].tolist() == here.ids[0 : len(here.ids)].tolist()
    where = np.random.default_rng(0).permutation(len(here.ids))[:50]
    assert away.at(where).tolist() == here.at(where).tolist()


def test_blocks_are_kept_in_the_room_that_is_allowed(stored, shards, monkeypatch, tmp_path):
    here, away = both(shards)
    copies = sum(path.stat().st_size for path in (tmp_path / "cache" / "far").glob("*/[!.]*"))
    monkeypatch.setattr(remote, "FEW", 2)
    monkeypatch.setenv("LLMKIT_FAR_CACHE", str((copies + 1500) / 1e9))
    for _ in range(2):
        for start in range(0, len(here.ids), 100):
            assert away.read(start, start + 100).tolist() == here.read(start, start + 100).tolist()
        kept = [path.stat().st_size for path in (tmp_path / "cache" / "far").glob("*/*.block")]
        assert 1000 < sum(kept) <= 1500
        away = pickle.loads(pickle.dumps(away))  # nothing is mapped any more
    assert all(path.is_file() for path in (tmp_path / "cache").glob("far/*/tokens.json"))


def test_ids_that_change_far_away_are_an_error_of_the_data(stored, shards, bucket, monkeypatch):
    tag = ["1"]
    usual = bucket.info
    monkeypatch.setattr(bucket, "info", lambda path, **more: {**usual(path, **more), "ETag": tag[0]})
    monkeypatch.setattr(bucket, "glob", lambda path, detail: {
        name: bucket.info(name) for name in bucket.find("/bucket/tokens")})
    _, away = both(shards)
    assert len(away.read(0, 10)) == 10
    tag[0] = "2"
    with pytest.raises(DataError, match=r"ids\.bin: has changed while it was read \(it was 1, and is 2\)"):
        away.read(len(away.ids) - 10, len(away.ids))


def test_a_shard_whose_ids_are_of_another_size_far_away_is_named(stored, shards, bucket):
    bucket.pipe_file("/bucket/tokens/shard-00001/ids.bin", b"12" * 300)
    with pytest.raises(DataError, match=r"shard-00001 \(ids\.bin has 600 bytes, not"):
        both(shards)


class NameNode(BaseHTTPRequestHandler):
    """WebHDFS's REST interface: a name node that leads to a data node for what is in a file."""

    def do_GET(self) -> None:
        place, query = urlsplit(self.path).path.removeprefix("/webhdfs/v1"), parse_qs(urlsplit(self.path).query)
        operation, files = query["op"][0].upper(), self.server.files
        if operation == "OPEN" and "data" not in query:
            self.send_response(307)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}{self.path}&data=1")
            self.end_headers()
            return
        inside = sorted(name for name in files if name.startswith(f"{place.rstrip('/')}/"))
        if place not in files and not inside:
            self.answer(404, json.dumps({"RemoteException": {
                "exception": "FileNotFoundException", "message": f"File {place} does not exist."}}).encode())
        elif operation == "OPEN":
            start = int(query["offset"][0])
            self.answer(200, files[place][start : start + int(query["length"][0])])
        elif operation == "GETFILESTATUS":
            self.answer(200, json.dumps({"FileStatus": self.status(place)}).encode())
        else:
            deep = len(place.rstrip("/").split("/"))
            names = dict.fromkeys("/".join(name.split("/")[: deep + 1]) for name in inside)
            self.answer(200, json.dumps({"FileStatuses": {"FileStatus": [
                {**self.status(name), "pathSuffix": name.rpartition("/")[2]} for name in names]}}).encode())

    def status(self, place: str) -> dict[str, object]:
        found = self.server.files.get(place)
        kind = {"type": "DIRECTORY", "length": 0} if found is None else {"type": "FILE", "length": len(found)}
        return {**kind, "pathSuffix": "", "modificationTime": self.server.changed}

    def answer(self, status: int, said: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *said: object) -> None:
        """Nothing."""


@pytest.fixture
def hdfs(monkeypatch, tmp_path) -> Iterator[ThreadingHTTPServer]:
    """A cluster of one machine, which fsspec asks as it asks any."""
    pytest.importorskip("requests")
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSES", ())
    server = ThreadingHTTPServer(("127.0.0.1", 0), NameNode)
    server.files, server.changed = {f"/corpus/part-{i}.txt": part for i, part in enumerate((TEXT[:300], TEXT[300:]))}, 1
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_text_and_tokens_are_read_from_webhdfs(hdfs, shards, monkeypatch):
    at = f"hdfs://127.0.0.1:{hdfs.server_port}"
    monkeypatch.setattr(remote, "BLOCK", 400)
    monkeypatch.setattr(joined, "PIECE", 256)
    assert b"".join(path.read_bytes() for path in remote.brought(f"{at}/corpus/part-*.txt")) == TEXT
    with pytest.raises(DataError, match=r"none\.txt: there is no such file \(404\)"):
        remote.brought(f"{at}/corpus/none.txt")
    hdfs.files |= {f"/tokens/{path.relative_to(shards).as_posix()}": path.read_bytes()
                   for path in shards.rglob("*") if path.is_file()}
    here, away = both(shards, f"{at}/tokens")
    assert away.read(0, 400).tolist() == here.read(0, 400).tolist()
    hdfs.changed = 2
    away = pickle.loads(pickle.dumps(away))
    with pytest.raises(DataError, match=r"ids\.bin: has changed while it was read \(it was 1, and is 2\)"):
        away.read(len(away.ids) - 5, len(away.ids))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    import fsspec

    def lacks(protocol: str, **options: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.setattr(fsspec, "filesystem", lacks)
    with pytest.raises(RequestError, match=r"needs s3fs: pip install 'llmkit-train\[s3\]'"):
        remote.brought("s3://bucket/a.txt")


def test_the_digest_of_a_large_file_is_remembered_until_it_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "WORTH", 10)
    monkeypatch.setattr(files, "TICK", 0)
    read: list[Path] = []
    usual = files.sha256_of
    monkeypatch.setattr(files, "sha256_of", lambda path: (read.append(path), usual(path))[1])
    path = tmp_path / "a.txt"
    path.write_bytes(b"a" * 100)
    for _ in range(2):
        files._remembered.cache_clear()  # as another program
        assert files.digest(path) == hashlib.sha256(b"a" * 100).hexdigest()
    assert len(read) == 1
    times = path.stat()
    with path.open("r+b") as file:  # of the same size and time; only the time of the change itself tells
        file.write(b"b")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    files._remembered.cache_clear()
    assert files.digest(path) == hashlib.sha256(b"b" + b"a" * 99).hexdigest()
    note, = (tmp_path / "cache" / "digests").iterdir()
    note.write_text("{")
    files._remembered.cache_clear()
    assert files.digest(path) == hashlib.sha256(b"b" + b"a" * 99).hexdigest()
