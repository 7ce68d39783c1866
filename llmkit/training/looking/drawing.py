"""The pictures of a run while it trains: drawn now and then, at little cost, and never the reason why a run ends."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from llmkit.figures import curves, labels, paper
from llmkit.models import layout
from llmkit.models.run import Run
from llmkit.system.errors import PlaceError
from llmkit.training.folder.run_folder import RunFolder, put
from llmkit.training.looking.run_page import run_page
from llmkit.training.looking.story import Story

log = logging.getLogger("llmkit")

SECONDS, SHARE = 2.0, 0.01
"""What pictures may take of a run: so many seconds, or such a share of its time where that is more."""
FIRST = 0.8
"""Seconds that the first picture takes: matplotlib is imported for it."""


class Pictures:
    """What one run draws of itself, into its own folder, by its main process."""

    def __init__(self, run: RunFolder, on: bool, began: float) -> None:
        """`began` is when the run began, on the monotonic clock."""
        self.run, self.on, self.began = run, on, began
        self.spent, self.usual, self.looked = 0.0, FIRST, 0.0
        """Seconds that pictures took, the last of them, and samples."""
        self.failed = False
        """Whether it was said that something can't be drawn."""

    def between(self) -> None:
        """The curves so far, where there is time for them: what the last picture will take is kept for it."""
        most = max(SECONDS, SHARE * (time.monotonic() - self.began))
        if self.on and self.spent + 2 * self.usual <= most:
            self.usual = self.carefully(lambda: curves_of(self.run.folder))
            self.spent += self.usual

    def last(self) -> None:
        """The curves, and the page, of a run that has ended."""
        if self.on:
            self.carefully(lambda: all_of(self.run.folder))

    def carefully(self, act: Callable[[], object]) -> float:
        """Do what only people look at, and say how many seconds it took.

        Where it fails that is said, once, and the run goes on.
        """
        start = time.monotonic()
        try:
            self.run.check()
            act()
        except PlaceError as error:
            self.say(str(error))
        except Exception as error:  # whatever matplotlib finds wrong: hours of training don't end for a picture
            self.say(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return time.monotonic() - start

    def say(self, why: str) -> None:
        """Once."""
        if not self.failed:
            self.failed = True
            log.warning("%s", f"a picture of the run couldn't be made, and the run goes on without: {why}")


def curves_of(folder: Path) -> list[Path]:
    """Draw loss.png, on white and on black; the paths, none where the run wrote no figures yet."""
    story = Story.of(Run(folder))
    shown = story.panels
    if not shown:
        return []
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of fonts that it doesn't find
    made, title = [], labels.said("{learning} with {tuning}").format(
        learning=story.learning or "?", tuning=story.plugin("tuning") or "full")
    if not paper.undrawable([story.name]):
        title = f"{story.name}: {title}"
    for name, theme in ((layout.CURVES, paper.LIGHT), (layout.CURVES_DARK, paper.DARK)):
        curves.draw(shown, title, folder / name, theme)
        made.append(folder / name)
    return made


def all_of(folder: Path) -> list[Path]:
    """Draw the curves and write the page of a run into its folder; the paths."""
    page = folder / layout.REPORT
    put(page, run_page(Story.of(Run(folder))))
    return [page, *curves_of(folder)]

