"""Text that is far away: copied by ranges, kept in a bounded place, refused where it must be, and never told how."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import stories

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.data import files
from llmkit.data.large import remote
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
        start, stop = (int(number) for number in self.headers["Range"].removeprefix("bytes=").split("-"))
        part = TEXT[start : stop + 1]
        if path == "/short.txt" and start:
            part = part[:-3]
        whole = path == "/whole.txt"
        self.send_response(200 if whole else 206)
        self.send_header("ETag", '"1"')
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
    ("short.txt", "is truncated: 997 bytes came from byte 1,000"),
    ("down.txt", r"leads to http://example\.com/a\.txt, which isn't https"),
    ("private.txt", r"leads to 10\.0\.0\.1, which is in a private network")])
def test_what_goes_wrong_is_said_in_one_line(path, match, at):
    with pytest.raises(DataError, match=match):
        documents(f"{at}/{path}")


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


def test_tokens_are_learned_from_far_away(bucket, tmp_path):
    (tmp_path / "a.txt").write_bytes(TEXT)
    tree = {"name": "r", "backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
            "data": {"train": str(tmp_path / "a.txt")}, "objective": "causal_lm"}
    out = tmp_path / "out"
    tokenizing.tokenize(recipes.load(tree), out, 1, size=2000)
    for path in out.rglob("*"):
        if path.is_file():
            bucket.pipe_file(f"/bucket/tokens/{path.relative_to(out).as_posix()}", path.read_bytes())
    ours, theirs = (open_source(Source(f"tokens:{place}")) for place in ("s3://bucket/tokens", out))
    assert ours.content() == theirs.content()


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
