"""What Prometheus is told: requests, tokens, who waits, how many texts a step writes, and how long things take."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250)


class Metrics:
    """The figures of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "llmkit_requests", "Requests answered.", ["path", "status"], registry=self.registry)
        self.read = Counter("llmkit_prompt_tokens", "Tokens of prompts.", ["model"], registry=self.registry)
        self.written = Counter("llmkit_written_tokens", "Tokens written.", ["model"], registry=self.registry)
        self.waiting = Gauge("llmkit_texts_waiting", "Texts that wait for a place.", registry=self.registry)
        self.writing = Gauge("llmkit_texts_writing", "Texts that have a place.", registry=self.registry)
        self.batch = Histogram(
            "llmkit_batch_texts", "Texts that a step wrote a token of.", registry=self.registry,
            buckets=(1, 2, 4, 8, 16, 32, 64))
        self.first = Histogram(
            "llmkit_first_token_seconds", "From a request to its first token.", ["model"], registry=self.registry,
            buckets=SECONDS)
        self.whole = Histogram(
            "llmkit_request_seconds", "From a request to its end.", ["path"], registry=self.registry, buckets=SECONDS)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
