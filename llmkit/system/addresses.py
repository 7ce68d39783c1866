"""Addresses of things that are far away, told from paths and shown without what opens them; and paths in a home."""

import os
import re
from pathlib import Path

FAR = re.compile(r"^(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)
PASSWORD = re.compile(r"(?<=://)[^/\s@?#'\"]+@")
"""A name and password in an address."""
QUERY = re.compile(r"(?P<address>\b[a-z][a-z0-9+.-]+://[^\s?#'\"]+)\?[^\s'\"]*?(?=[:;,.]*(?:[\s'\"]|$))", re.IGNORECASE)
"""An address with what is asked behind it: signatures stand there."""
MASK = "…"


def at_home(path: str | Path) -> Path:
    """A path whose `~` is a home; where nobody is known by that name (`~.csv`), it is a file's own."""
    return Path(os.path.expanduser(path))


def scheme_of(label: str) -> str | None:
    """`s3` of `s3://bucket/a.txt`; None of a path.

    >>> scheme_of("s3://bucket/a.txt"), scheme_of("corpora/*.txt")
    ('s3', None)
    """
    found = FAR.match(label)
    return None if found is None else found["scheme"].lower()


def masked(text: str) -> str:
    """A text whose addresses have no names, passwords and signatures.

    >>> masked("https://me:secret@host/a.txt?X-Amz-Signature=abc is there")
    'https://…@host/a.txt?… is there'
    """
    return QUERY.sub(lambda found: f"{found['address']}?{MASK}", PASSWORD.sub(f"{MASK}@", text))
