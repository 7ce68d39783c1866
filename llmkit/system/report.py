"""What a run says while it works: one line an event, and a progress bar where a person is watching. All on stderr."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from llmkit.system import terminal
from llmkit.system.addresses import masked
from llmkit.system.language import translate
from llmkit.system.markdown import block, code, prose
from llmkit.system.sparkline import shows, sparkline
from llmkit.system.terminal import visible, visible_lines

log = logging.getLogger("llmkit")

MOST_SOURCES = 20
"""Names of files in a model card."""
PLACE = re.compile(r"(?<![\w:./…*-])(?:~|[A-Z]:)?/(?:[^\s/`'\",|]+/)+")
"""The folders of an absolute path."""


def to_stderr(level: int = logging.INFO) -> None:
    """Let llmkit's log lines reach the terminal; libraries stay silent unless something is wrong."""
    if not log.handlers:
        handler = _Stderr()
        handler.setFormatter(terminal.Lines("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(level)


class _Stderr(logging.Handler):
    """Writes to whatever stderr is at the time; what is to be said `once`, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if "once" in record.__dict__:  # logging's way: what a call gives as `extra` are attributes
            text = record.getMessage()
            if text in self.said:
                return
            self.said.add(text)
        with suppress(OSError):  # a terminal that was closed; the signal that says so may come later
            terminal.err(self.format(record))


class _Terminal(io.TextIOBase):
    """stderr, for a bar: what is written to a terminal that was closed is lost, and ends no run."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.stream.encoding


def opening(model: str) -> None:
    """Say that a model is being opened, before the libraries are imported that it needs: that alone takes seconds."""
    log.info("opening %s …", masked(model))


def quiet_libraries() -> None:
    """No progress bars and advice from the libraries: what matters, llmkit says itself."""
    import warnings

    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for handler in logging.getLogger("transformers").handlers:
        if not any(isinstance(one, terminal.Calmed) for one in handler.filters):
            handler.addFilter(terminal.Calmed())
    warnings.filterwarnings("ignore", category=FutureWarning)


class Progress:
    """How far a run is, with throughput and time left: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, shown: bool, unit: str = "step") -> None:
        self.unit = unit
        self.bar: Any = None
        self.shown, self.unit = shown, unit
        self.last = time.monotonic()
        self.task: Any = None
        self.losses: list[float] = []
        self.line, self.told = "", False
        """What was last to be shown, for when the bar is gone, and whether a line of the log had it already."""

    def update(self, share: float, step: int, figures: Mapping[str, float], left: float) -> None:
        """`share` of the run is done, `left` seconds remain."""
        if not self.shown:
            return
        words = "  ".join(f"{visible(name)} {value:,.4g}" for name, value in figures.items())
        if "loss" in figures:
            self.losses.append(figures["loss"])
            self.line, self.told = f"{self.unit} {step} ({int(100 * share)} %)  {words}", False
        if self.bar is not None:
            self.bar.update(self.task, completed=share, step=step, words=words,
                            left=translate(f"{clock(left)} left"))
        elif time.monotonic() - self.last >= 10:
            self.last, self.told = time.monotonic(), True
            log.info("%s %d (%d %%)  %s  %s left", self.unit, step, int(100 * share), words, clock(left))

    def closed(self, stopped: bool) -> None:
        """Leave the last loss, with its curve, where a person looks; elsewhere where a run didn't come to its end."""
        if not self.line or (self.bar is None and (self.told or not stopped)):
            return
        draws = self.bar is not None and len(self.losses) > 1 and shows(sys.stderr.encoding)
        log.info("%s%s", self.line, f"  {sparkline(self.losses)}" if draws else "")


@contextmanager
def progress(shown: bool, unit: str = "step") -> Iterator[Progress]:
    """Show a bar while the block runs; log lines go above it. `unit` is what is counted."""
    state = Progress(shown, unit)
    if not shown or not sys.stderr.isatty():
        try:
            yield state
        except BaseException:
            state.closed(stopped=True)
            raise
        return
    from rich.console import Console
    from rich.logging import RichHandler
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars

    console = Console(file=cast("TextIO", _Terminal(sys.stderr)))
    columns = (TextColumn(translate(unit) + " {task.fields[step]}"), BarColumn(bar_width=24),
               TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[words]}", markup=False),
               TextColumn("{task.fields[left]}"))
    handler = RichHandler(console=console, show_time=False, show_level=False, show_path=False)
    handler.setFormatter(terminal.Lines("%(message)s"))
    old, log.handlers = log.handlers, [handler]
    try:
        with Bars(*columns, console=console, transient=True, refresh_per_second=4) as bars:
            state.bar = bars
            state.task = bars.add_task("", total=1.0, step=0, words="", left="")
            yield state
    finally:
        log.handlers = old
        state.closed(stopped=False)


def table(cells: Sequence[Sequence[str]]) -> None:
    """Print a table on stdout, its head first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    head, *rest = cells
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(head):
        shown.add_column(escape(visible(name)), justify="left" if i < 2 else "right", overflow="fold")
    for row in rest:
        shown.add_row(*(escape(visible_lines(cell)) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


def figures(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print figures on stdout: what, how much, and what there is to say of it; a row without words parts them."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    shown.add_column(style="bold", no_wrap=True)
    shown.add_column(justify="right", no_wrap=True)
    shown.add_column(style="dim", overflow="fold")
    for row in rows:
        shown.add_row(*(escape(visible_lines(translate(cell))) for cell in row))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(shown)


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 02:03."""
    whole = max(0, int(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"


def spent(seconds: float) -> str:
    """`clock`, of what takes time: less than a second isn't nothing.

    >>> spent(0.2), spent(0), spent(75)
    ('< 1 s', '00:00', '01:15')
    """
    return "< 1 s" if 0 < seconds < 1 else clock(seconds)


def _sources(names: Sequence[str]) -> str:
    """The first of them, for a card is read by people; the recipe beside it has all."""
    more = len(names) - MOST_SOURCES
    return ", ".join(map(code, names[:MOST_SOURCES])) + (f", and {more:,} more" if more > 0 else "")


def facts(summary: Mapping[str, Any]) -> list[str]:
    """Lines of a model card: what a run was, what it learned from, and its figures beside their floors."""
    about, figures, before = summary["recipe"], summary["evaluation"], summary.get("evaluation_before") or {}
    floors = summary.get("floors") or {}
    lines = [
        f"{about['what']} with llmkit {summary['versions']['llmkit'] or '(not installed)'}: "
        f"backbone {code(about['backbone'])}, {about['kind']} {code(about['learning'])}, "
        f"tuning {code(about['tuning'])}.", "",
        f"- parameters: {summary['parameters']:,}, of which {summary['trainable_parameters']:,} were trained",
        f"- steps: {summary['steps']:,}; tokens: {summary['tokens']:,}; status: {summary['status']}",
        f"- data: {_sources(about['data'])}", ""]
    if not figures:
        return lines
    columns = [before, figures, *floors.values()]
    lines += [f"| {' | '.join(['metric', 'before', 'after', *(f'floor: {prose(name)}' for name in floors)])} |",
              "|---" * (len(columns) + 1) + "|"]
    for key in figures:
        cells = [f"{column[key]:.4f}" if key in column else "" for column in columns]
        lines.append(f"| {' | '.join([prose(key), *cells])} |")
    return [*lines, ""]


def card(summary: Mapping[str, Any], name: str, recipe: str) -> str:
    """The model card of a run, for others: without the folders of this machine."""
    return PLACE.sub("…/", "\n".join([
        "---", f"library_name: {'peft' if summary['adapter'] else 'transformers'}", "tags: [llmkit]", "---",
        f"# {prose(name)}", "", *facts(summary),
        "The recipe, with every default written out:", "", block(recipe.rstrip(), "yaml"), ""]))
