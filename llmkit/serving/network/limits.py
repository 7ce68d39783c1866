"""What a server takes: how much at once, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    places: int = 16
    """Texts written at once."""
    queue: int = 32
    """Texts that may wait; more are answered with 429."""
    new_tokens: int = 1024
    """Tokens of a text."""
    prompt_tokens: int | None = None
    """Tokens of a prompt; none: what the model's context takes."""
    body_bytes: int = 4 << 20
    """Bytes of a request."""
    connections: int = 512
    """Connections at once; fewer where this process may open fewer files."""
    head_seconds: float = 10.0
    """Time for the first line and the headers of a request."""
    body_seconds: float = 60.0
    """Time for its body."""
    unread_seconds: float = 60.0
    """Time in which a client must take something of an answer that waits for it."""
