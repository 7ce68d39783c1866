"""Files that are far away (https, s3, oss, hdfs), copied by ranges into a part of the cache that is bounded."""

from __future__ import annotations

import hashlib
import http.client
import ipaddress
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from llmkit.system import cache
from llmkit.system.addresses import MASK, masked, scheme_of
from llmkit.system.environment import switched_on
from llmkit.system.errors import DataError, PlaceError, RequestError, nearest
from llmkit.system.machine import size as words

BLOCK = 2**24
"""Bytes that are asked for at once; a copy that was cut short goes on behind the last whole block."""
SECONDS = 30
"""How long a host may be silent."""
REDIRECTS = 5
"""Addresses that one may lead to, one after the other."""
MOST = "LLMKIT_FAR_CACHE"
"""The variable that says how many gigabytes of files that are far away are kept here."""
USUAL = 50
LIBRARIES = {"s3": ("s3", "s3fs"), "oss": ("oss", "ossfs"), "hdfs": ("webhdfs", "requests"),
             "webhdfs": ("webhdfs", "requests")}
"""What fsspec calls a scheme, and the package that it needs for it."""
PORT = 9870
"""Of WebHDFS, where an address says none."""
ADDRESS = ".address"
"""The file beside a copy that says where it is from."""
LOCAL = ("localhost", "127.0.0.1", "::1")
"""Hosts that plain http is used for: no network is between."""


@dataclass(frozen=True)
class Far:
    """A file that is far away."""

    address: str
    size: int
    version: str
    """What changes when the file does: its entity tag, or when it was changed."""
    read: Callable[[int, int], bytes]
    """Bytes from one place to another."""

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(urlsplit(self.address).path).name or "file"


def brought(address: str) -> list[Path]:
    """Local copies of the files that an address means, in the order of their names; of s3, oss and hdfs also `*`.

    RequestError for a scheme that isn't known, or whose package is missing; DataError where the network is forbidden
    (--offline), the host can't be reached, says no (403), has no such file (404), or sends less than it said;
    PlaceError where they are more than may be kept here.
    """
    scheme = scheme_of(address)
    if MASK in address:
        raise RequestError(f"{address}: in this recipe the address is masked, for it held what opens it; give it anew: "
                           "--set data.train=…")
    if scheme not in (*LIBRARIES, "http", "https"):
        raise RequestError(f"{masked(address)}: {scheme}:// isn't known.{nearest(str(scheme), ['https', *LIBRARIES])}")
    if switched_on("LLMKIT_OFFLINE"):
        raise DataError(f"{masked(address)}: --offline forbids every connection; give a file that is here.")
    files = [_web(address)] if scheme in ("http", "https") else _stored(address, *LIBRARIES[scheme])
    whole, most = sum(file.size for file in files), _most()
    if whole > most:
        raise PlaceError(f"{masked(address)}: {words(whole)} of files, and {words(most)} of such are kept here; allow "
                         f"more ({MOST}=GB), or name a part of them at a time.")
    keep = {_place(file) for file in files}
    _make_room(most - sum(file.size for file in files if not _place(file).is_file()), keep)
    return [_copied(file) for file in files]


def brought_folder(address: str) -> Path:
    """A local copy of a folder of tokens that is far away; errors as of `brought`."""
    scheme = scheme_of(address)
    if scheme in ("http", "https"):
        raise RequestError(f"tokens:{masked(address)}: over {scheme} a folder can't be listed; give one of "
                           f"{', '.join(f'{name}://' for name in LIBRARIES)}, or a copy.")
    files = brought(f"{address.rstrip('/')}/**")
    base = urlsplit(address).path.strip("/")
    key = hashlib.sha256("\n".join(map(str, files)).encode()).hexdigest()

    def link(folder: Path) -> None:
        for file in files:
            address = (file.parent / ADDRESS).read_text()
            place = folder / PurePosixPath(urlsplit(address).path.strip("/")).relative_to(base)
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(file, place)

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
    there.sort(key=lambda path: path.stat().st_mtime)
    held = sum(path.stat().st_size for path in there)
    while there and held > most:
        oldest = there.pop(0)
        held -= oldest.stat().st_size
        shutil.rmtree(oldest.parent, ignore_errors=True)


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
        raise PlaceError(f"{place.parent}: can't be written: {error.strerror or error}. Set LLMKIT_CACHE to a folder "
                         "that can.") from error
    return place


def _copy(file: Far, at: int, out: IO[bytes]) -> None:
    while at < file.size:
        stop = min(at + BLOCK, file.size)
        block = file.read(at, stop)
        if len(block) != stop - at:
            raise DataError(f"{masked(file.address)}: is truncated: {len(block):,} bytes came from byte {at:,} on, "
                            f"where {stop - at:,} were promised; try again.")
        out.write(block)
        at = stop


def _bare(address: str) -> str:
    """An address without name, password and signature."""
    return masked(address).replace(f"{MASK}@", "").removesuffix(f"?{MASK}")


# ---- https ----


def _web(address: str) -> Far:
    parts = urlsplit(address)
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL:
        raise RequestError(f"{masked(address)}: plain http can be read and changed on its way; use https://.")
    opener = urllib.request.build_opener(_Careful(parts.hostname))

    def read(start: int, stop: int) -> bytes:
        asked = _request(address, start, stop)
        with _told(address), opener.open(asked, timeout=SECONDS) as answer:
            if answer.status == 200 and start:  # it sends the whole each time
                answer.read(start)
            return bytes(answer.read(stop - start))

    with _told(address), opener.open(_request(address, 0, 1), timeout=SECONDS) as answer:
        ranged = answer.headers.get("Content-Range", "").rpartition("/")[2]
        length = ranged if answer.status == 206 else answer.headers.get("Content-Length", "")
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    if not length.isdecimal():
        raise DataError(f"{masked(address)}: the host doesn't say how large it is; save it to a file first.")
    return Far(address, int(length), version, read)


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
        raise DataError(_refusal(said, error.code)) from None
    except (TimeoutError, urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
        why = masked(str(error.reason if isinstance(error, urllib.error.URLError) else error)) or type(error).__name__
        raise DataError(f"{said}: can't be reached: {why}.") from None


def _refusal(said: str, status: int) -> str:
    if status == 404:
        return f"{said}: there is no such file (404)."
    if status in (401, 403):
        return f"{said}: may not be read ({status}); the credentials are missing, or they are over."
    return f"{said}: the host answers {status}; try again later."


# ---- what fsspec opens ----


def _stored(address: str, protocol: str, package: str) -> list[Far]:
    """The files of an object store or of WebHDFS; credentials are those of its own variables and files."""
    said, parts = masked(address), urlsplit(address)
    if parts.password is not None:
        raise RequestError(f"{said}: leave name and password out; they are taken from where {package} looks for them.")
    options = {"host": parts.hostname, "port": parts.port or PORT} if protocol == "webhdfs" else {}
    with _foretold(said, package, protocol):
        import fsspec  # type: ignore[import-untyped]

        system = fsspec.filesystem(protocol, **options)
        path = parts.path if protocol == "webhdfs" else f"{parts.netloc}{parts.path}"
        found = system.glob(path, detail=True) if "*" in path else {path: system.info(path)}
        files = [(name, about) for name, about in sorted(found.items()) if about["type"] == "file"]
    if not files:
        raise DataError(f"{said}: no file matches.")

    def reader(name: str) -> Callable[[int, int], bytes]:
        def read(start: int, stop: int) -> bytes:
            with _foretold(said, package, protocol):
                return bytes(system.cat_file(name, start, stop))

        return read

    base = f"{parts.scheme}://{parts.netloc}/" if protocol == "webhdfs" else f"{parts.scheme}://"
    return [Far(base + name.lstrip("/"), int(about["size"]), str(about.get("ETag") or about.get("LastModified")
                or about.get("modificationTime") or about.get("mtime") or ""), reader(name)) for name, about in files]


@contextmanager
def _foretold(said: str, package: str, protocol: str) -> Iterator[None]:
    """As `_told`, of what fsspec's file systems raise."""
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
        raise DataError(f"{said}: can't be reached: {masked(' '.join(str(error).split()))[:200]}.") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "oss2", "requests", "aiohttp"):
            raise
        raise DataError(f"{said}: can't be reached: {masked(' '.join(str(error).split()))[:200]}.") from None
