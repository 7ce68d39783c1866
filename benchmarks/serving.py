"""Many clients at once against one: what a server gives in all, whether it refuses or forgets anyone, and its memory.

    python benchmarks/serving.py --clients 32 --seconds 60

One client writes for a third of the time, then all of them for the whole of it, and once more for half of it, which is
to take no more memory: all against the same server, so that the ratio of their tokens a second holds on a machine that
does other things too. A client that is refused (429) waits as
long as it is told and asks again. Prompts and lengths differ from client to client.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter

import psutil
from openai import APIError, OpenAI, RateLimitError

QUESTIONS = [
    "Tell me a story about a lighthouse.", "Why is the sky blue?", "How do I make bread? Explain it step by step.",
    "Write a letter to a friend who has moved to another city, and tell her what has changed here since she left.",
    "What is a prime number?", "Describe a market in the morning.", "Give me ten names for a boat."]


class Client(threading.Thread):
    """Asks, reads the answer as it comes, and asks again, until the time is over."""

    def __init__(self, url: str, number: int, until: float) -> None:
        super().__init__(daemon=True)
        self.openai = OpenAI(base_url=url, api_key="none", max_retries=0, timeout=240)
        self.chance, self.until = random.Random(number), until
        self.tokens = self.answers = 0
        self.first: list[float] = []
        self.failed: Counter[str] = Counter()

    def run(self) -> None:
        while time.monotonic() < self.until:
            try:
                self.ask()
            except RateLimitError as error:
                self.failed["429"] += 1
                time.sleep(float(error.response.headers["retry-after"]))
            except APIError as error:
                self.failed[f"{type(error).__name__}: {error}"] += 1

    def ask(self) -> None:
        began, heard = time.monotonic(), False
        stream = self.openai.chat.completions.create(
            model="model", messages=[{"role": "user", "content": self.chance.choice(QUESTIONS)}], stream=True,
            max_tokens=self.chance.randint(30, 120), temperature=0.8, seed=self.chance.getrandbits(30))
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                if not heard:
                    self.first.append(time.monotonic() - began)
                heard = True
                if time.monotonic() < self.until:
                    self.tokens += 1  # a piece a token, but for characters of several
        self.answers += 1


def phase(url: str, clients: int, seconds: float, server: psutil.Process) -> dict[str, object]:
    """So many clients for so long; what they got, and who still had no end of an answer long after."""
    until = time.monotonic() + seconds
    memory = [server.memory_info().rss]
    threads = [Client(url, number, until) for number in range(clients)]
    for thread in threads:
        thread.start()
    while time.monotonic() < until:
        time.sleep(min(1, seconds / 10))
        memory.append(server.memory_info().rss)
    for thread in threads:
        thread.join(max(0, until + 300 - time.monotonic()))
    failed = sum((thread.failed for thread in threads), Counter())
    waits = sorted(wait for thread in threads for wait in thread.first)
    half = memory[len(memory) // 2:]
    return {
        "clients": clients, "seconds": seconds, "answers": sum(thread.answers for thread in threads),
        "tokens_per_second": round(sum(thread.tokens for thread in threads) / seconds, 2),
        "refused": failed.pop("429", 0), "errors": dict(failed), "stuck": sum(thread.is_alive() for thread in threads),
        "fewest_answers_of_a_client": min(thread.answers for thread in threads),
        "first_token_seconds": {"median": round(waits[len(waits) // 2], 2), "worst": round(waits[-1], 2)},
        "memory_mb": {"start": memory[0] >> 20, "half": half[0] >> 20, "end": memory[-1] >> 20,
                      "most": max(memory) >> 20}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("serve", nargs="*", help="options of llmkit serve, after --")
    given = parser.parse_args()
    command = [sys.executable, "-m", "llmkit", "serve", f"model={given.model}", "--port", "0", *given.serve]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = next(found[1] for line in server.stderr if (found := re.search(r"listening on (http://\S+):", line))) + "/v1"
    threading.Thread(target=server.stderr.read, daemon=True).start()
    process = psutil.Process(server.pid)
    phase(url, 1, 3, process)  # what is done once
    one = phase(url, 1, given.seconds / 3, process)
    many = phase(url, given.clients, given.seconds, process)
    again = phase(url, given.clients, given.seconds / 2, process)
    server.terminate()
    ratio = many["tokens_per_second"] / one["tokens_per_second"]  # type: ignore[operator]
    print(json.dumps({"one": one, "many": many, "many_again": again, "ratio": round(ratio, 2),
                      "exit_status": server.wait(30)}, indent=1))


if __name__ == "__main__":
    main()
