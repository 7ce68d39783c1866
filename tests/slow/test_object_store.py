"""Text and tokens in an object store: s3fs asks a server of moto's, which speaks S3's own protocol on this machine.

Both are too large for every environment of a developer: pip install s3fs 'moto[server]'.
"""

from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmkit.data.large import joined, remote
from llmkit.system.errors import DataError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
TEXT = "\n".join(f"line {i} of the moon" for i in range(900)).encode()
IDS = np.random.default_rng(0).integers(0, 300, 50_000).astype(np.uint16)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of the store, which has a bucket with text and a folder of tokens; `store.server` is its server."""
    moto, boto3 = pytest.importorskip("moto.server"), pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    import fsspec

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    for name, value in {
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
            "LLMKIT_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    monkeypatch.setattr(remote, "BLOCK", 4000)
    monkeypatch.setattr(remote, "PAUSES", (0.1,))
    monkeypatch.setattr(joined, "PIECE", 1024)
    fsspec.filesystem("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    for key, body in {"corpus/a.txt": TEXT[:9000], "corpus/b.txt": TEXT[9000:], "tokens/tokens.json": b"{}",
                      "tokens/shard-00000/ids.bin": IDS.tobytes()}.items():
        client.put_object(Bucket="bucket", Key=key, Body=body)
    client.server = server
    yield client
    server.stop()


def test_text_is_copied_by_ranges_and_what_is_not_there_is_said(store: Any) -> None:
    assert b"".join(path.read_bytes() for path in remote.brought("s3://bucket/corpus/*.txt")) == TEXT
    for address, match in (("s3://bucket/none.txt", r"no such file \(404\)"), ("s3://none/a.txt", r"\(404\)"),
                           ("s3://bucket/x*.txt", "no file matches")):
        with pytest.raises(DataError, match=match):
            remote.brought(address)


def test_ids_are_fetched_by_blocks_in_a_fork_too_until_they_change(store: Any, tmp_path: Path) -> None:
    place = remote.brought_folder("s3://bucket/tokens") / "shard-00000"
    ids = joined.JoinedIds([joined.ids_of(place)], [len(IDS)], "uint16")
    assert ids[10_000:10_600].tolist() == IDS[10_000:10_600].tolist()
    assert len(list((tmp_path / "cache").glob("far/*/*.block"))) == 2  # of 98
    context: Any = get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(ids[40_000:40_100].tolist()))
    child.start()
    assert queue.get(timeout=60) == IDS[40_000:40_100].tolist()
    child.join()
    store.put_object(Bucket="bucket", Key="tokens/shard-00000/ids.bin", Body=IDS[::-1].tobytes())
    with pytest.raises(DataError, match=r'ids\.bin: has changed while it was read \(it was ".+", and is ".+"\)'):
        ids[20_000:20_010]
    store.server.stop()
    with pytest.raises(DataError, match=r"ids\.bin: can't be reached: Could not connect"):
        ids[30_000:30_010]
