"""The browser of the tests that need one: LLMKIT_BROWSER, or a Chromium or Chrome on PATH."""

from __future__ import annotations

import os
import shutil

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-zygote"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NONE = "no browser on this machine: LLMKIT_BROWSER names none, and none of " + ", ".join(NAMES) + " is on PATH"


def program() -> str | None:
    """The path of the browser; None where there is none."""
    named = os.environ.get("LLMKIT_BROWSER")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)
