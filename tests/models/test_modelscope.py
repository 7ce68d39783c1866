"""modelscope:OWNER/NAME, against a server of this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from llmkit.models import cached, pull, resolve
from llmkit.system.errors import RequestError

FILES = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "vocab.txt": b"[UNK]\n",
         "1_Pooling/config.json": b"{}", "pytorch_model.bin": b"a pickle", "modeling.py": b"import os"}


class ModelScope(BaseHTTPRequestHandler):
    """The two addresses of the API that are asked."""

    files = FILES
    wrong = b""
    """What is sent after each file."""
    asked: list[str] = []

    def do_GET(self) -> None:
        address = urlparse(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        self.asked.append(query.get("FilePath", "list"))
        if not address.path.startswith("/api/v1/models/me/tiny/") or query["Revision"] != "master":
            self.send_error(404)
            return
        answer = self.files[query["FilePath"]] + self.wrong if "FilePath" in query else json.dumps({
            "Code": 200, "Data": {"Files": [{"Path": "1_Pooling", "Type": "tree"}, *(
                {"Path": name, "Type": "blob", "Size": len(content), "Sha256": hashlib.sha256(content).hexdigest()}
                for name, content in self.files.items())]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[ModelScope]]:
    monkeypatch.setattr(ModelScope, "asked", [])
    served = ThreadingHTTPServer(("127.0.0.1", 0), ModelScope)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{served.server_address[1]}/")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    yield ModelScope
    served.shutdown()
    thread.join()
    served.server_close()


def test_safe_files_are_fetched_once(server: type[ModelScope], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cached("modelscope:me/tiny") is None
    folder = resolve("modelscope:me/tiny")
    there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[!.]*") if path.is_file()}
    assert there == {name: FILES[name] for name in (
        "config.json", "model.safetensors", "vocab.txt", "1_Pooling/config.json")}
    server.asked.clear()
    monkeypatch.setenv("LLMKIT_OFFLINE", "1")
    assert cached("modelscope:me/tiny") == pull("modelscope:me/tiny") == folder and not server.asked


@pytest.mark.parametrize(("name", "revision", "said"), [
    ("modelscope:me/none", None, "ModelScope has no model 'me/none'"),
    ("modelscope:me/tiny", "v9", "ModelScope has no model 'me/tiny', or no such revision of it"),
    ("modelscope:tiny", None, "write modelscope:OWNER/NAME"), ("modelscope:../..", None, "write modelscope:OWNER/NAME"),
    ("modelscope:me/tiny", "../x", "write modelscope:OWNER/NAME")])
def test_what_is_not_there_is_told(server: type[ModelScope], name: str, revision: str | None, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        pull(name, revision)


def test_a_file_with_another_hash_is_refused_and_nothing_is_kept(
    server: type[ModelScope], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "wrong", b"!")
    with pytest.raises(RequestError, match=r"config\.json isn't what ModelScope lists: its SHA-256 is"):
        pull("modelscope:me/tiny")
    assert cached("modelscope:me/tiny") is None


@pytest.mark.parametrize(("files", "said"), [
    ({"config.json": b"{}", "pytorch_model.bin": b"a pickle"}, "has no safetensors, and pickles can run code"),
    ({"../out.safetensors": b"w"}, "outside of its folder")])
def test_pickles_and_paths_that_lead_out_are_refused(
    server: type[ModelScope], files: dict[str, bytes], said: str, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "files", files)
    with pytest.raises(RequestError, match=said):
        pull("modelscope:me/tiny")


@pytest.mark.parametrize("variable", ["LLMKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nothing(server: type[ModelScope], variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(RequestError, match=f"isn't on this machine, and {variable} switches off the hub"):
        pull("modelscope:me/tiny")
    assert not server.asked


def test_a_server_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("LLMKIT_OFFLINE")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(RequestError, match="ModelScope can't be reached for 'me/tiny'"):
        pull("modelscope:me/tiny")
