"""The browser of the tests that need one: LLMKIT_BROWSER, or a Chromium or Chrome on PATH."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-zygote"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
NONE = "no browser on this machine: LLMKIT_BROWSER names none, and none of " + ", ".join(NAMES) + " is on PATH"


def program() -> str | None:
    """The path of the browser; None where there is none."""
    named = os.environ.get("LLMKIT_BROWSER")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for the tests of a module."""
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visited(browser: Any) -> Iterator[Any]:
    """Open a page as a new visitor; whatever it does against its own policy, or throws, fails the test.

    script   what the browser does before the page's own scripts; other options are playwright's, of a context
    """
    contexts, wrong = [], []

    def visited(address: str, script: str = "", **how: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "locale": "en-US", **how})
        if script:
            context.add_init_script(script)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)  # a busy machine is slow, and nothing is waited for in vain
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
        page.goto(address)
        page.bring_to_front()  # a window that opens while another closes may not have the keyboard
        return page

    yield visited
    for context in contexts:
        context.close()
    assert wrong == []
