"""`batchling serve`: the embedded server on its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from batchling.cli.commands.arguments import gate, trust_option
from batchling.cli.shell import Shell, common, pass_shell

PORT = 8787

_COUNT = click.IntRange(min=1)


@click.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=PORT, show_default=True, type=click.IntRange(0, 65_535), help="0 takes a free one.")
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Allow an address other than loopback: whoever has the token can use the server.",
)
@click.option("--no-token", is_flag=True, help="Require no token: anyone who can reach the port can use the server.")
@click.option(
    "--state-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Files, batches and answers. Default: server/ in the runs folder.",
)
@click.option("--engine", type=click.Choice(["simulated", "echo", "http"]), default="simulated", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="simulated: another seed, other answers.")
@click.option(
    "--faults",
    multiple=True,
    metavar="KIND=SHARE",
    help="simulated: a share of the requests goes wrong: invalid, truncated, refused, filtered or error (may be repeated).",
)
@click.option("--upstream", metavar="URL", help="http: base URL of an OpenAI-compatible endpoint.")
@click.option("--api-key-env", metavar="NAME", help="http: the variable that holds the upstream's key.")
@click.option("--concurrency", type=_COUNT, default=8, show_default=True, help="Requests answered at the same time.")
@click.option("--rpm", type=_COUNT, help="http: requests per minute.")
@click.option("--tpm", type=_COUNT, help="http: tokens per minute.")
@click.option(
    "--retries", type=click.IntRange(min=0), default=5, show_default=True, help="http: attempts after the first."
)
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=600.0,
    show_default=True,
    help="http: how long one request may take.",
)
@click.option("--max-requests", type=_COUNT, default=50_000, show_default=True, help="Requests in a batch.")
@click.option(
    "--max-file-bytes", type=_COUNT, default=200_000_000, show_default=True, help="Largest input file, in bytes."
)
@click.option(
    "--max-upload-bytes", type=_COUNT, default=512_000_000, show_default=True, help="Largest upload, in bytes."
)
@click.option(
    "--max-line-bytes", type=_COUNT, default=32_000_000, show_default=True, help="Longest input line, in bytes."
)
@click.option(
    "--enqueued-tokens",
    multiple=True,
    metavar="N|MODEL=N",
    help="Prompt tokens that may be enqueued at once, for every model or for one (repeatable).",
)
@click.option(
    "--creations-per-hour", type=_COUNT, help="Batches that may be created in an hour; more are refused with 429."
)
@click.option(
    "--concurrent-batches", type=_COUNT, help="Unfinished batches allowed at once; more are refused with 429."
)
@click.option(
    "--row-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="How long a simulated row takes.",
)
@click.option(
    "--window-seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Overrides the completion window of every batch.",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="How long a client may pause in the middle of a request's body.",
)
@click.option(
    "--upload-seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="How long a request's body may take in all.",
)
@click.option(
    "--allow-http", is_flag=True, help="Allow the upstream's key to be sent over plain http to another machine."
)
@trust_option
@common
@pass_shell
def serve_command(
    shell: Shell,
    host: str,
    port: int,
    allow_remote: bool,
    no_token: bool,
    state_dir: Path | None,
    engine: str,
    seed: int,
    faults: Sequence[str],
    upstream: str | None,
    api_key_env: str | None,
    concurrency: int,
    rpm: int | None,
    tpm: int | None,
    retries: int,
    timeout_seconds: float,
    max_requests: int,
    max_file_bytes: int,
    max_upload_bytes: int,
    max_line_bytes: int,
    enqueued_tokens: Sequence[str],
    creations_per_hour: int | None,
    concurrent_batches: int | None,
    row_seconds: float,
    window_seconds: float | None,
    idle_seconds: float,
    upload_seconds: float,
    allow_http: bool,
) -> int:
    """An OpenAI-compatible Files and Batches server on loopback, its state on disk.

    Point any OpenAI client at the base URL that it prints, with the token as its API key. With --engine http it gives a Batch API to any
    synchronous endpoint (Ollama, vLLM, llama.cpp, LM Studio). Kill it and start it again: its batches continue.
    """
    from batchling.local.options import ServerOptions
    from batchling.local.server import serve
    from batchling.local.token import kept_token
    from batchling.spec import EngineConfig

    if engine == "http" and not upstream:
        raise click.UsageError("--engine http needs --upstream URL, e.g. http://127.0.0.1:11434/v1")
    answering = EngineConfig.model_validate(
        {
            "kind": engine,
            "seed": seed,
            "faults": _shares(faults),
            "upstream": upstream,
            "api_key_env": api_key_env,
            "concurrency": concurrency,
            "rpm": rpm,
            "tpm": tpm,
            "retries": retries,
            "timeout_seconds": timeout_seconds,
        }
    )
    key = None
    if engine == "http" and api_key_env:
        key = gate(shell).upstream(answering, allow_http=allow_http, where="--upstream")
    folder = (state_dir or shell.runs / "server").absolute()
    options = ServerOptions(
        state_dir=folder,
        token=None if no_token else kept_token(folder),
        engine=answering,
        upstream_key=key,
        host=host,
        port=port,
        allow_remote=allow_remote,
        max_requests=max_requests,
        max_file_bytes=max_file_bytes,
        max_upload_bytes=max_upload_bytes,
        max_line_bytes=max_line_bytes,
        enqueued_tokens=_token_limits(enqueued_tokens),
        creations_per_hour=creations_per_hour,
        concurrent_batches=concurrent_batches,
        row_seconds=row_seconds,
        window_seconds=window_seconds,
        idle_seconds=idle_seconds,
        upload_seconds=upload_seconds,
    )
    return serve(options)


def _shares(given: Sequence[str]) -> dict[str, float]:
    """`invalid=0.1` and the like, by kind."""
    from pydantic import ValidationError

    from batchling.spec import FaultsConfig

    try:
        return FaultsConfig.model_validate(
            {kind: share for kind, _, share in (text.partition("=") for text in given)}
        ).model_dump()
    except (ValueError, ValidationError):
        kinds = ", ".join(FaultsConfig.model_fields)
        raise click.UsageError(
            f"--faults: expected KIND=SHARE, KIND one of {kinds}, the shares from 0 to 1 in all; got {' '.join(given)}"
        ) from None


def _token_limits(texts: Sequence[str]) -> int | dict[str, int] | None:
    limits: dict[str, int] = {}
    for text in texts:
        model, _, number = text.rpartition("=")
        if not number.isdigit() or int(number) < 1:
            raise click.BadParameter(f"{text!r} is neither N nor MODEL=N", param_hint="--enqueued-tokens")
        limits[model] = int(number)
    if "" in limits:
        if len(limits) > 1:
            raise click.BadParameter("give one N, or one MODEL=N for each model", param_hint="--enqueued-tokens")
        return limits[""]
    return limits or None
