"""Files that are far away (https, s3, oss, hdfs), read by ranges into a part of the cache that is bounded."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import json
import logging
import os
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from llmkit.system import cache
from llmkit.system.addresses import MASK, masked, scheme_of
from llmkit.system.environment import switched_on
from llmkit.system.errors import DataError, NothingThereError, PlaceError, RequestError, nearest
from llmkit.system.machine import size as words

log = logging.getLogger("llmkit")

BLOCK = 2**24
"""Bytes that are asked for at once; a copy that was cut short goes on behind the last whole block."""
SECONDS = 30
"""How long a host may be silent."""
SLOW = 300.0
"""Seconds that a block may take."""
PAUSES = (1.0, 4.0, 15.0)
"""Seconds after which a host that failed is asked again."""
REDIRECTS = 5
"""Addresses that one may lead to, one after the other."""
MOST = "LLMKIT_FAR_CACHE"
"""The variable that says how many gigabytes of files that are far away are kept here."""
USUAL = 50
LIBRARIES = {"s3": ("s3", "s3fs"), "oss": ("oss", "ossfs"), "hdfs": ("webhdfs", "requests"),
             "webhdfs": ("webhdfs", "requests")}
"""What fsspec calls a scheme, and the package that it needs for it."""
IDS, NOTE = "ids.bin", "ids.far.json"
"""A shard's ids; and what is in its place where these are fetched by blocks: address, size and version."""
BLOCKS = ".block"
FEW = 8
"""Blocks that are kept however little room there is."""
PORT = 9870
"""Of WebHDFS, where an address says none."""
ADDRESS = ".address"
"""The file beside a copy that says where it is from."""
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts that plain http is used for: no network is between."""


class AwayError(NothingThereError):
    """A host doesn't answer, or not in time; a moment later it may."""


@dataclass(frozen=True)
class Far:
    """A file that is far away."""

    address: str
    size: int
    version: str
    """What changes when the file does: its entity tag, or when it was changed; "" where the host says neither."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(urlsplit(self.address).path).name or "file"

    def read(self, start: int, stop: int) -> bytes:
        """Bytes from one place to another; a host that fails is asked again after each of PAUSES.

        DataError where it fails still, where less comes than was promised, or where the file is another one by now.
        """
        web = scheme_of(self.address) in ("http", "https")
        for pause in (*PAUSES, None):
            try:
                block, version = (_web_block if web else _stored_block)(self.address, start, stop)
            except AwayError as error:
                if pause is None:
                    raise
                log.warning("%s It is asked again in %g s.", error, pause)
                time.sleep(pause)
                continue
            if version != self.version:
                raise DataError(f"{masked(self.address)}: has changed while it was read (it was {self.version}, and is "
                                f"{version or 'without a version'}); start again, and it is read anew.")
            if len(block) != stop - start:
                raise DataError(f"{masked(self.address)}: is truncated: {len(block):,} bytes came from byte {start:,} "
                                f"on, where {stop - start:,} were promised; try again.")
            return block
        raise AssertionError  # the last try returns or raises


def brought(address: str) -> list[Path]:
    """Local copies of the files that an address means, in the order of their names; of s3, oss and hdfs also `*`.

    RequestError for a scheme that isn't known, or whose package is missing; DataError where the network is forbidden
    (--offline), the host can't be reached, says no (403), has no such file (404), or sends less than it said;
    PlaceError where they are more than may be kept here.
    """
    scheme = _checked(address)
    return _kept(address, [_web(address)] if scheme in ("http", "https") else _stored(address))


def _checked(address: str) -> str:
    """The scheme of an address that may be asked for; errors as of `brought`."""
    scheme = scheme_of(address)
    if MASK in address:
        raise RequestError(f"{address}: in this recipe the address is masked, for it held what opens it; give it anew: "
                           "--set data.train=…")
    if scheme not in (*LIBRARIES, "http", "https"):
        raise RequestError(f"{masked(address)}: {scheme}:// isn't known.{nearest(str(scheme), ['https', *LIBRARIES])}")
    if switched_on("LLMKIT_OFFLINE"):
        raise DataError(f"{masked(address)}: --offline forbids every connection; give a file that is here.")
    return scheme


def _kept(address: str, files: Sequence[Far]) -> list[Path]:
    """Copies of files, made where there are none; PlaceError where they are more than may be kept."""
    whole, most = sum(file.size for file in files), _most()
    if whole > most:
        raise PlaceError(f"{masked(address)}: {words(whole)} of files, and {words(most)} of such are kept here; allow "
                         f"more ({MOST}=GB), or name a part of them at a time.")
    keep = {_place(file) for file in files}
    _make_room(most - sum(file.size for file in files if not _place(file).is_file()), keep)
    return [_copied(file) for file in files]


def brought_folder(address: str) -> Path:
    """A local copy of a folder of tokens that is far away; errors as of `brought`.

    In the place of a large file of ids there is a note of where it is: its ids are fetched when they are asked for.
    """
    scheme = _checked(address)
    if scheme in ("http", "https"):
        raise RequestError(f"tokens:{masked(address)}: over {scheme} a folder can't be listed; give one of "
                           f"{', '.join(f'{name}://' for name in LIBRARIES)}, or a copy.")
    there = _stored(f"{address.rstrip('/')}/**")
    away = [file for file in there if file.name == IDS and file.size > BLOCK]
    files = _kept(address, [file for file in there if file not in away])
    base = urlsplit(address).path.strip("/")
    key = hashlib.sha256("\n".join(map(str, [*files, *away])).encode()).hexdigest()

    def link(folder: Path) -> None:
        def place_of(address: str, name: str) -> Path:
            place = folder / PurePosixPath(urlsplit(address).path.strip("/")).relative_to(base).with_name(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            return place

        for file in files:
            os.link(file, place_of((file.parent / ADDRESS).read_text(), file.name))
        for far in away:
            place_of(far.address, NOTE).write_text(json.dumps(asdict(far)))

    return cache.once("far-folders", key, link)


# ---- what is kept here ----


def _root() -> Path:
    return cache.root() / "far"


def _most() -> int:
    """Bytes that may be kept; RequestError where the variable says no number."""
    given = os.environ.get(MOST, str(USUAL))
    try:
        return int(float(given) * 1e9)
    except ValueError as error:
        raise RequestError(f"{MOST}={given}: a number of gigabytes is needed, as {USUAL}.") from error


def _place(file: Far) -> Path:
    key = hashlib.sha256(f"{file.address}\n{file.size}\n{file.version}".encode()).hexdigest()
    return _root() / key / file.name


def _make_room(most: int, keep: set[Path]) -> None:
    """Remove the copies that were used longest ago until no more than so many bytes are left beside those to keep."""
    there = [path for path in _root().glob("*/*") if path.name != ADDRESS and path not in keep]
    _remove(sorted(there, key=_used), sum(map(_size, there)) - most)


def _remove(oldest: Sequence[Path], less: int) -> None:
    """Remove files from the first on until so many bytes are free."""
    for path in oldest:
        if less <= 0:
            return
        with suppress(OSError):  # another process has removed it
            less -= path.stat().st_size
            path.unlink()
            if [left.name for left in path.parent.iterdir()] == [ADDRESS]:
                shutil.rmtree(path.parent, ignore_errors=True)


def block_of(file: Far, start: int, stop: int) -> Path:
    """A stretch of a file, fetched where it isn't here: blocks have the room that whole copies leave."""
    place = _place(file).parent / f"{start}-{stop}{BLOCKS}"
    if place.is_file() and place.stat().st_size == stop - start:
        os.utime(place)
        return place
    block = file.read(start, stop)
    every = [path for path in _root().glob("*/*") if path.name != ADDRESS]
    blocks = sorted((path for path in every if path.suffix == BLOCKS), key=_used)
    held = sum(map(_size, every)) + len(block)
    _remove(blocks[: max(0, len(blocks) - FEW)], held - _most())
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / ADDRESS).write_text(_bare(file.address))
        staged = place.with_name(f".{place.name}-{os.getpid()}")
        staged.write_bytes(block)
        staged.replace(place)
    except OSError as error:
        raise _unwritable(place, error) from error
    return place


def _used(path: Path) -> float:
    """When a file was used last; 0 where it is gone. A copy keeps its own times, for its digest is known by them."""
    with suppress(OSError):
        return (path if path.suffix == BLOCKS else path.parent).stat().st_mtime
    return 0.0


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _unwritable(place: Path, error: OSError) -> PlaceError:
    return PlaceError(f"{place.parent}: can't be written: {error.strerror or error}. Set LLMKIT_CACHE to a folder "
                      "that can.")


def _copied(file: Far) -> Path:
    """The copy of a file, made where there is none; one that was cut short goes on."""
    place = _place(file)
    if place.is_file() and place.stat().st_size == file.size:
        place.parent.touch()
        return place
    part = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        (place.parent / ADDRESS).write_text(_bare(file.address))
        with part.open("ab") as out:
            out.truncate(at := out.tell() // BLOCK * BLOCK)
            _copy(file, at, out)
        part.replace(place)
    except OSError as error:
        raise _unwritable(place, error) from error
    return place


def _copy(file: Far, at: int, out: IO[bytes]) -> None:
    while at < file.size:
        stop = min(at + BLOCK, file.size)
        out.write(file.read(at, stop))
        at = stop


def _bare(address: str) -> str:
    """An address without name, password and signature."""
    return masked(address).replace(f"{MASK}@", "").removesuffix(f"?{MASK}")


# ---- https ----


def _web(address: str) -> Far:
    """The file of an address, by the answer to a request for its first byte."""
    parts = urlsplit(address)
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL:
        raise RequestError(f"{masked(address)}: plain http can be read and changed on its way; use https://.")
    with _told(address), _opener(address).open(_request(address, 0, 1), timeout=SECONDS) as answer:
        ranged = answer.headers.get("Content-Range", "").rpartition("/")[2]
        length = ranged if answer.status == 206 else answer.headers.get("Content-Length", "")
        version = _web_version(answer)
    if not length.isdecimal():
        raise DataError(f"{masked(address)}: the host doesn't say how large it is; save it to a file first.")
    return Far(address, int(length), version)


def _web_block(address: str, start: int, stop: int) -> tuple[bytes, str]:
    """(a stretch of a file, the version that it is of)."""
    with _told(address), _opener(address).open(_request(address, start, stop), timeout=SECONDS) as answer:
        if answer.status == 200 and start:  # it sends the whole each time
            _received(answer, start)
        return _received(answer, stop - start), _web_version(answer)


def _received(answer: Any, count: int) -> bytes:
    """So many bytes of an answer, fewer where it has no more; TimeoutError where they come too slowly."""
    began, got = time.monotonic(), bytearray()
    while len(got) < count and (some := answer.read1(count - len(got))):
        got += some
        if time.monotonic() - began > SLOW:
            raise TimeoutError(f"{len(got):,} of {count:,} bytes came in {SLOW:g} s")
    if len(got) < count and answer.length:
        raise ConnectionError(f"the connection ended after {len(got):,} of {count:,} bytes")
    return bytes(got)


def _web_version(answer: Any) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _opener(address: str) -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Careful(urlsplit(address).hostname))


def _request(address: str, start: int, stop: int) -> urllib.request.Request:
    """What asks for a range of bytes."""
    return urllib.request.Request(_bare_login(address), headers={
        "Range": f"bytes={start}-{stop - 1}", "User-Agent": "llmkit", **_login(address)})


def _login(address: str) -> dict[str, str]:
    """The header for a name and password in an address."""
    import base64

    parts = urlsplit(address)
    if parts.username is None:
        return {}
    pair = f"{parts.username}:{parts.password or ''}".encode()
    return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def _bare_login(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


class _Careful(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to https, or within this machine, and never from a public host into a private network."""

    max_redirections = REDIRECTS

    def __init__(self, host: str | None) -> None:
        self.host = host

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        """The request to the other address, without what opened the first one where it is another host."""
        parts = urlsplit(newurl)
        within = parts.hostname == self.host
        if parts.scheme != "https" and not (within and self.host in LOCAL):
            raise DataError(f"{masked(req.full_url)}: leads to {masked(newurl)}, which isn't https; it isn't followed.")
        if not within and private(parts.hostname or ""):
            raise DataError(f"{masked(req.full_url)}: leads to {parts.hostname}, which is in a private network; it "
                            "isn't followed.")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        if made is not None and not within:
            made.remove_header("Authorization")
        return made


def private(host: str) -> bool:
    """Whether a host is this machine or in a private network, by each of its numbers; also where it isn't known."""
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return True
    return any(not ipaddress.ip_address(str(number).partition("%")[0]).is_global for number in found)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """While the block runs, what a network or a host says is said in one line, without what opens the address."""
    said = masked(address)
    try:
        yield
    except urllib.error.HTTPError as error:
        kind = AwayError if error.code in (408, 425, 429) or error.code >= 500 else DataError
        raise kind(_refusal(said, error.code)) from None
    except (TimeoutError, urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
        why = masked(str(error.reason if isinstance(error, urllib.error.URLError) else error)) or type(error).__name__
        raise AwayError(f"{said}: can't be reached: {why}.") from None


def _refusal(said: str, status: int) -> str:
    if status == 404:
        return f"{said}: there is no such file (404)."
    if status in (401, 403):
        return f"{said}: may not be read ({status}); the credentials are missing, or they are over."
    return f"{said}: the host answers {status}; try again later."


# ---- what fsspec opens ----


def _stored(address: str) -> list[Far]:
    """The files of an object store or of WebHDFS; credentials are those of its own variables and files."""
    parts = urlsplit(address)
    if parts.password is not None:
        package = LIBRARIES[parts.scheme][1]
        raise RequestError(f"{masked(address)}: leave name and password out; they are taken from where {package} looks "
                           "for them.")
    with _foretold(address):
        system, path = _system(address)
        found = system.glob(path, detail=True) if "*" in path else {path: system.info(path)}
        files = [(name, about) for name, about in sorted(found.items()) if about["type"] == "file"]
    if not files:
        raise DataError(f"{masked(address)}: no file matches.")
    base = f"{parts.scheme}://{parts.netloc}/" if LIBRARIES[parts.scheme][0] == "webhdfs" else f"{parts.scheme}://"
    return [Far(base + name.lstrip("/"), int(about["size"]), _version(about)) for name, about in files]


def _system(address: str) -> tuple[Any, str]:
    """(the file system of an address, what it calls the file there).

    fsspec keeps its systems, and has others after a fork: their connections are no longer ours there.
    """
    import fsspec  # type: ignore[import-untyped]

    parts = urlsplit(address)
    protocol, path = LIBRARIES[parts.scheme][0], address.partition("://")[2]  # a key may have any letter in it
    if protocol == "webhdfs":
        return fsspec.filesystem(protocol, host=parts.hostname, port=parts.port or PORT), path[len(parts.netloc) :]
    return fsspec.filesystem(protocol), path


def _stored_block(address: str, start: int, stop: int) -> tuple[bytes, str]:
    """(a stretch of a file, the version that the file has after it was read)."""
    with _foretold(address):
        system, name = _system(address)
        block = bytes(system.cat_file(name, start=start, end=stop))
        system.invalidate_cache()
        return block, _version(system.info(name))


def _version(about: Mapping[str, Any]) -> str:
    """What a store says of a file that changes with it."""
    return str(next((about[name] for name in ("ETag", "LastModified", "modificationTime", "mtime")
                     if about.get(name)), ""))


@contextmanager
def _foretold(address: str) -> Iterator[None]:
    """As `_told`, of what fsspec's file systems raise."""
    said = masked(address)
    protocol, package = LIBRARIES[urlsplit(address).scheme]
    try:
        yield
    except ImportError as error:
        extra = protocol.removeprefix("web")
        raise RequestError(f"{said}: needs {package}: pip install 'llmkit-train[{extra}]'.") from error
    except FileNotFoundError:
        raise DataError(_refusal(said, 404)) from None
    except PermissionError:
        raise DataError(_refusal(said, 403)) from None
    except (OSError, ValueError) as error:
        raise AwayError(f"{said}: can't be reached: {masked(' '.join(str(error).split()))[:200]}.") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "oss2", "requests", "aiohttp"):
            raise
        raise AwayError(f"{said}: can't be reached: {masked(' '.join(str(error).split()))[:200]}.") from None
