"""The command line. Only typer is imported here, so that `llmkit --help` answers at once."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer
from typer.main import get_command

from llmkit.cli import catalogue, train, use
from llmkit.errors import LlmkitError

ClickException: type[Exception] = typer.BadParameter.__mro__[2]  # of click, or of the copy of it that typer carries

app = typer.Typer(
    name="llmkit", no_args_is_help=True, rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False,
    help="Pretrain, fine-tune and use language models from recipes.", context_settings={"help_option_names": ["-h", "--help"]})
for group in (train, use, catalogue):
    group.register(app)


@app.callback(invoke_without_command=True)
def everywhere(
    version: bool = typer.Option(False, "--version", help="Print the version and end."),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback where something fails; may stand anywhere."),
    offline: bool = typer.Option(False, "--offline", help="Ask neither a hub nor a registry; may stand anywhere."),
) -> None:
    """Options of every command."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"llmkit {installed('llmkit')}")
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status. Whatever fails ends with one line: `llmkit: error: …`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    if "--offline" in given[:end]:
        os.environ["LLMKIT_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"
    given = [word for word in given[:end] if word not in ("--debug", "--offline")] + given[end:]
    logging.captureWarnings(True)
    try:
        status = get_command(app)(given, prog_name="llmkit", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except ClickException as error:
        return _fail(error.format_message(), 2, debug)  # type: ignore[attr-defined]
    except LlmkitError as error:
        return _fail(str(error), error.status, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped by SIGINT", 130, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last place that can say it in one line
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return _fail(f"unforeseen: {words[:500]} (--debug shows where)", 1, debug)


def _fail(message: str, status: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    if int(os.environ.get("RANK", "0")) == 0 or status not in (75, 130):
        print(f"llmkit: error: {' '.join(message.split())}", file=sys.stderr)
    return status
