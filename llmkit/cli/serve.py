"""`llmkit serve`: models behind the OpenAI API, and a page to talk to them."""

from __future__ import annotations

from typing import Annotated

import typer

from llmkit.cli import completion
from llmkit.cli.generate import Dtype
from llmkit.cli.search import Mix
from llmkit.system import terminal


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    models: Annotated[list[str], typer.Argument(
        metavar="RUN|MODEL…", autocompletion=completion.models,
        help="Runs, folders, hub ids, catalogue names; name=M gives one another name.")],
    adapter: Annotated[list[str], typer.Option(
        "--adapter", metavar="NAME=FOLDER", help="An adapter over one of the models; repeatable.")] = [],  # noqa: B006
    in_: Annotated[list[str], typer.Option(
        "--in", metavar="FOLDER|FILE", help="Files that are searched for passages to answer by; repeatable.",
    )] = [],  # noqa: B006
    embedder: Annotated[str | None, typer.Option(
        "--embedder", metavar="M", autocompletion=completion.models,
        help="Of --in, the sentence encoder that searches; minilm-l6.")] = None,
    mix: Mix = False,
    dtype: Dtype = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="0: any that is free.", min=0, max=65535)] = 8000,
    api_key: Annotated[str | None, typer.Option(
        "--api-key", metavar="KEY", envvar="LLMKIT_API_KEY", help="What clients must send; needed where others "
        "than this machine can ask.")] = None,
    max_concurrent: Annotated[int, typer.Option(
        "--max-concurrent", metavar="N", help="Texts written at once.", min=1)] = 16,
    queue: Annotated[int, typer.Option(
        "--queue", metavar="N", help="Texts that may wait; more are refused (429).", min=0)] = 32,
    max_new_tokens: Annotated[int, typer.Option(
        "--max-new-tokens", metavar="N", help="Most tokens of a text.", min=1)] = 1024,
    max_prompt_tokens: Annotated[int | None, typer.Option(
        "--max-prompt-tokens", metavar="N", help="Most tokens of a prompt; else what the model takes.", min=1)] = None,
    processes: Annotated[int, typer.Option("--processes", metavar="N", hidden=True)] = 1,
    tensor_parallel_size: Annotated[int, typer.Option("--tensor-parallel-size", metavar="N", hidden=True)] = 1,
    data_parallel_size: Annotated[int, typer.Option("--data-parallel-size", metavar="N", hidden=True)] = 1,
) -> None:
    """Serve models over the OpenAI API, with a page to talk to them."""
    from llmkit.serving import server
    from llmkit.serving.network.alone import check_alone

    check_alone(models[0], {"--processes": processes, "--tensor-parallel-size": tensor_parallel_size,
                            "--data-parallel-size": data_parallel_size})
    from llmkit.system import report
    from llmkit.system.errors import RequestError

    server.need()
    from llmkit.serving.requests import Limits

    if (embedder is not None or mix) and not in_:
        raise RequestError(f"{'--mix' if embedder is None else '--embedder'}: is for --in, which searches files.")
    report.to_stderr()
    report.quiet_libraries()

    def ready(address: str, writes: bool) -> None:
        key = ' -H "Authorization: Bearer $LLMKIT_API_KEY"' if api_key else ""
        path, body = ("chat/completions", '{"messages": [{"role": "user", "content": "Hello"}]}') if writes else (
            "embeddings", '{"input": "Hello"}')
        terminal.err(f"""listening on {address}: a page there, the OpenAI API under {address}/v1; Ctrl-C ends it
curl {address}/v1/{path} -H 'Content-Type: application/json'{key} -d '{body}'""")

    server.serve(
        models, adapter, host=host, port=port, key=api_key, ready=ready, where=in_,
        embedder=embedder or "minilm-l6", mix=mix, dtype=dtype,
        limits=Limits(max_concurrent, queue, max_new_tokens, max_prompt_tokens))
