"""`batchling doctor`: is everything there that a run needs?"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from batchling.cli.commands.arguments import gate, trust_option, trust_plan_option
from batchling.cli.figures import plural, size
from batchling.cli.screen import width
from batchling.cli.shell import Shell, common, pass_shell
from batchling.cli.table import table
from batchling.errors import BatchlingError, CallError, ChangedError, ProviderError, RefusedError
from batchling.printable import printable

EVERY = "*"
PACKAGES = ("openai", "duckdb", "pydantic", "hydra-core", "omegaconf", "tiktoken", "genai-prices", "orjson", "click")
LITTLE_SPACE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `fail` stops runs, `warn` may."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    next_command: str | None = None


@click.command("doctor")
@click.option(
    "--rebuild",
    is_flag=False,
    flag_value=EVERY,
    metavar="[PLAN]",
    help="Decode the raw files again, of one plan or of all, and rebuild their part of the catalog. Sends nothing.",
)
@click.option("--offline", is_flag=True, help="Do not contact any provider.")
@click.option(
    "--provider",
    metavar="NAME",
    help="With --spend: buy three rows there, say what it does where its pages are silent, and write that down.",
)
@click.option(
    "--spend", type=click.FloatRange(min=0), metavar="USD", help="With --provider: the most that this may cost."
)
@click.option("--model", metavar="NAME", help="With --provider: the model; else its cheapest with a known price.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="MINUTES",
    help="With --provider: how long its batch is watched.",
)
@trust_option
@trust_plan_option
@common
@pass_shell
def doctor_command(
    shell: Shell,
    rebuild: str | None,
    offline: bool,
    provider: str | None,
    spend: float | None,
    model: str | None,
    wait: float,
) -> int:
    """Check keys, tokenizer data, disk, catalog and providers. Exit code 1 when a check fails.

    With --rebuild no code of a plan that is not known to be yours is run (--trust). With --provider and --spend, and
    only then, something is bought; exit code 75 when its batch has not ended in time.
    """
    if (provider is None) != (spend is None):
        raise click.UsageError("--provider and --spend go together: --provider NAME --spend 0.01 buys three rows there")
    if model is not None and provider is None:
        raise click.UsageError("--model is for --provider")
    if provider is not None and spend is not None:
        return _smoke(shell, provider, spend, model, wait)
    if rebuild is not None:
        return _rebuild(shell, None if rebuild == EVERY else rebuild)
    checks = []
    for check in every_check(shell, offline=offline):
        checks.append(check)
        shell.note(f"{check.name}: {check.state}")
    failed = any(check.state == "fail" for check in checks)
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"ok": not failed, "checks": checks})
    else:
        rows = [[c.state, c.name, c.detail + (f"   next: {c.next_command}" if c.next_command else "")] for c in checks]
        shell.out(table(["", "check", "found"], rows, width=width(), longest=400))
    return 1 if failed else 0


def _smoke(shell: Shell, provider: str, spend: float, model: str | None, wait: float) -> int:
    """Buys three rows and prints what was found."""
    from decimal import Decimal

    from batchling.api.smoke import smoke

    def tell(question: str, answer: object) -> None:
        if shell.json:
            return
        if isinstance(answer, bool):
            answer = "yes" if answer else "no"
        elif isinstance(answer, dict):
            answer = ", ".join(f"{name} {value}" for name, value in answer.items())
        shell.out(f"{question}: {printable(str(answer))}")

    report = smoke(
        provider,
        Decimal(str(spend)),
        project=shell.project,
        gate=gate(shell),
        model=model,
        wait_seconds=60 * wait,
        tell=tell,
    )
    if shell.json:
        from batchling.cli.document import write

        write(shell, {**report.document(), "path": report.path})
    shell.say(f"written to {report.path}; it holds no prompt, answer or key")
    if not report.over:
        shell.say(
            "not finished: the batch is still running at the provider and will be billed; nothing will be sent again"
        )
    return 0 if report.over else 75


def every_check(shell: Shell, *, offline: bool) -> Iterator[Check]:
    """All checks, each made when it is asked for; one that breaks is a failed one."""
    made: list[tuple[str, Callable[[], list[Check]]]] = [
        ("versions", _versions),
        ("project", lambda: _project(shell)),
        ("disk", lambda: _disk(shell.runs)),
        ("catalog", lambda: _catalog(shell.runs)),
        ("plans", lambda: _plans(shell.runs)),
        ("tokenizer", _tokenizer),
        ("embedded server", _embedded),
        ("providers", lambda: _providers(shell, offline=offline)),
    ]
    for name, make in made:
        try:
            yield from make()
        except BatchlingError as error:
            yield Check(name, "fail", error.message, error.next_command)
        except Exception as error:
            yield Check(name, "fail", f"{type(error).__name__}: {error}")


def _versions() -> list[Check]:
    found = [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    python = ".".join(map(str, sys.version_info[:3]))
    return [
        Check(
            "versions",
            "ok",
            f"batchling {importlib.metadata.version('batchling')}, Python {python}, " + ", ".join(found),
        )
    ]


def _project(shell: Shell) -> list[Check]:
    from batchling.config import experiment_names

    project = shell.project
    names = experiment_names(project)
    what = f"{project.root}: " + (f"experiments {', '.join(names)}" if names else "no experiments")
    return [Check("project", "ok" if names else "warn", what, None if names else "batchling init")]


def _disk(runs: Path) -> list[Check]:
    there = next(folder for folder in (runs, *runs.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "make the folder writable, or set BATCHLING_RUNS to one that is"
        return [Check("disk", "fail", f"{there}: {error.strerror}", hint)]
    state: Literal["ok", "warn"] = "warn" if free < LITTLE_SPACE else "ok"
    return [Check("disk", state, f"{runs}: writable, {size(free)} free")]


def _catalog(runs: Path) -> list[Check]:
    from batchling import catalog

    if not (runs / "catalog.duckdb").exists():
        return [Check("catalog", "ok", "none yet; the next command creates it")]
    behind = catalog.stale(runs)
    try:
        known = len(catalog.plans(runs))
    except BatchlingError as error:
        return [
            Check("catalog", "warn", f"{error.message}; it is a view, nothing is lost", "batchling doctor --rebuild")
        ]
    late = len(behind.moved_on) + len(behind.gone)
    detail = plural(known, "plan") + (f", {late} to bring up to date by the next command" if late else "")
    return [Check("catalog", "ok", detail)]


def _plans(runs: Path) -> list[Check]:
    from batchling.api.standing import listing
    from batchling.disk import RealDisk
    from batchling.runner.broken import BrokenPlanWarning, broken, salvage

    checks = []
    disk = RealDisk()
    damaged = set()
    with warnings.catch_warnings(action="ignore", category=BrokenPlanWarning):  # here they are the answer
        unreadable = broken(disk, runs)
        plans = listing(runs=runs)
    for folder, error in unreadable:
        damaged.add(folder.plan_id)
        found = f"{error.where}: {error.message}; {salvage(disk, folder)}"
        hint = f"restore its files from a backup, or give it up: batchling rm {folder.plan_id} --force"
        checks.append(Check("plan", "fail", found, hint))
    for plan in plans:
        if plan.plan_id in damaged:
            continue
        if plan.state == "damaged":
            checks.append(Check("plan", "fail", f"{plan.plan_id}: {plan.next_command}"))
        elif plan.state == "parked":
            checks.append(Check("plan", "warn", f"{plan.plan_id}: needs your decision", plan.next_command))
        elif plan.finished_at is None:
            checks.append(Check("plan", "ok", f"{plan.plan_id}: {plan.state}", plan.next_command))
    return checks or [Check("plans", "ok", f"{plural(len(plans), 'plan')}, all finished")]


def _tokenizer() -> list[Check]:
    from batchling.tokens.vocabulary import encoding

    checks = []
    for name in ("o200k_base", "cl100k_base"):
        found, reason = encoding(name)
        if found is not None:
            checks.append(Check("tokenizer", "ok", f"{name}: available"))
        else:
            hint = "pip install bpe-openai, or set TIKTOKEN_CACHE_DIR to a folder that holds it"
            checks.append(
                Check("tokenizer", "warn", f"{name}: not available ({reason}); tokens are estimated from bytes", hint)
            )
    return checks


def _embedded() -> list[Check]:
    from batchling.local.options import ServerOptions
    from batchling.local.server import start_in_process
    from batchling.scratch import scratch

    with (
        scratch("doctor") as folder,
        start_in_process(ServerOptions(state_dir=folder)) as server,
    ):
        return [Check("embedded server", "ok", f"answers on {server.base_url}")]


def _providers(shell: Shell, *, offline: bool) -> list[Check]:
    from batchling.config.project import shipped_conf

    folders = [folder for folder in (shell.project.conf, shipped_conf()) if folder is not None]
    names = sorted({path.stem for folder in folders for path in (folder / "provider").glob("*.yaml")})
    return [_provider(shell, name, offline=offline) for name in names if name != "local"]


def _provider(shell: Shell, name: str, *, offline: bool) -> Check:
    """Is its key set, and does it answer a question that costs nothing?"""
    from batchling import providers
    from batchling.config import from_values
    from batchling.providers.gate import Gate
    from batchling.trust import recipients

    title = f"provider {name}"
    document = {
        "name": "doctor",
        "data": {"rows": [{"x": 1}]},
        "model": "none",
        "provider": name,
        "prompt": {"messages": [{"role": "user", "content": "not sent"}]},
    }
    try:
        config = from_values(document, shell.project.root).config.provider
        variables = list(dict.fromkeys(variable for variable, _, _ in recipients(config)))
        if not config.base_url:
            return Check(title, "ok", "not in use: it has no base URL", "set provider.base_url")
        for variable in variables:
            if not os.environ.get(variable, "").strip():
                return Check(title, "ok", f"not in use: {variable} is not set", f"export {variable}=…")
        if offline:
            return Check(title, "ok", f"{', '.join(variables) or 'no key needed'}; not contacted (--offline)")
        start = time.monotonic()
        # Only where the user, or a shipped file, says that the key goes there: a cloned project's file is neither.
        connected = providers.connect(config, gate=Gate(hosts=shell.hosts, doctor=True))
        next(iter(connected.find(time.time(), page_size=1, limit_pages=1)), None)
        return Check(title, "ok", f"{config.base_url} answers in {time.monotonic() - start:.1f} s")
    except RefusedError as error:
        return Check(title, "warn", error.message, "batchling run asks; or: batchling doctor --trust-host HOST")
    except ProviderError as error:
        return Check(title, "fail", error.message, error.next_command)
    except BatchlingError as error:
        return Check(title, "ok", f"not in use: {error.message}")
    except CallError as error:
        status = "" if error.status is None else f" ({error.status})"
        return Check(title, "warn", f"{config.base_url}: {error.message}{status}")


def _rebuild(shell: Shell, reference: str | None) -> int:
    """Everything that can be derived is derived again."""
    from batchling import catalog
    from batchling.api.workspace import Workspace
    from batchling.runner.folder import PlanFolder

    workspace = Workspace(shell.runs, gate=gate(shell))
    if reference is None:
        folders = [PlanFolder(path) for path in catalog.plan_folders(shell.runs)]
        if shell.runs.exists():
            found = catalog.ensure(shell.runs)
            if found.aside is not None:
                shell.say(f"the catalog could not be used and was moved to {found.aside}")
    else:
        folders = [workspace.find(reference)]
    done, failed = [], []
    codes = set()
    for folder in folders:
        try:
            refreshed = workspace.rebuild(folder)
        except BatchlingError as error:
            if reference is not None and isinstance(error, ChangedError | RefusedError):
                raise
            failed.append({"plan_id": folder.plan_id, "error": error.message})
            codes.add(error.exit_code if isinstance(error, ChangedError | RefusedError) else 1)
            shell.say(f"error: {printable(folder.plan_id)}: {printable(error.message)}")
            continue
        states: dict[str, int] = {}
        for run in refreshed.runs:
            for name, n in run.states.items():
                states[name] = states.get(name, 0) + n
        done.append({"plan_id": folder.plan_id, "states": states})
        if not shell.json:
            shell.out(
                f"{folder.plan_id}: " + (", ".join(f"{n:,} {name}" for name, n in sorted(states.items())) or "no rows")
            )
        for warning in refreshed.warnings:
            shell.say(f"warning: {printable(warning)}")
    if shell.json:
        from batchling.cli.document import write

        write(shell, {"rebuilt": done, "failed": failed})
    return min(codes, default=0)
