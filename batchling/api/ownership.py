"""Whose a plan is: the user's own, or somebody else's that came with a runs folder.

A plan is one's own when the user's configuration folder remembers its mark. Another one runs no code and sends nothing:
not a key, and no request either, to an address that only its plan.json names. It can be looked at, and its answers are
judged by the JSON Schemas in plan.json.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from batchling.consent import Plans
from batchling.errors import BatchlingError, ConfigError, JournalError, RefusedError
from batchling.plan_document import PlanDocument
from batchling.printable import one_line
from batchling.runner.broken import events_of
from batchling.runner.folder import PlanFolder
from batchling.runner.sealing import check_seal, digests, mark_of, sealed
from batchling.trust import recorded as recipients

if TYPE_CHECKING:  # `batchling status` starts without what plans are made with
    from batchling.api.workspace import Workspace
    from batchling.runner.planning import Draft

_OWN_ADAPTER = "openai"


def is_own(workspace: Workspace, folder: PlanFolder) -> bool:
    """Whether the user made the plan, or took it.

    Raises:
        JournalError: its journal cannot be read.
    """
    try:
        return Plans().knows(_mark(workspace, folder))
    except JournalError:
        return False


def take_if_told(workspace: Workspace, folder: PlanFolder) -> bool:
    """`is_own`, after the plan was taken where the user said that for this command (`--trust`)."""
    if is_own(workspace, folder):
        return True
    if workspace.gate is None or not workspace.gate.plans:
        return False
    _take(workspace, folder)
    return True


def take(workspace: Workspace, folder: PlanFolder, document: PlanDocument, *, sends: bool) -> bool:
    """Whether a plan may be driven as the user's own: it is, or the user says so now, which is remembered.

    Args:
        sends: it would be driven: without a yes only where that reaches nothing but the embedded server.

    Returns:
        False: it belongs to someone else, and can be used without running its code.

    Raises:
        RefusedError: it would send something, and nobody said yes.
    """
    if take_if_told(workspace, folder):
        return True
    does = _does(document)
    if not sends or not does:
        return False
    gate = workspace.gate
    if gate is not None and gate.ask_plan is not None and gate.ask_plan(_question(workspace, folder, does)):
        _take(workspace, folder)
        return True
    raise not_taken(folder, does, f"batchling watch {folder.plan_id} --trust")


def not_taken(folder: PlanFolder, does: str, command: str) -> RefusedError:
    """The refusal: whose plan it is, what it would do, and how to say yes."""
    return RefusedError(
        f"plan {folder.plan_id} is not known to be yours, and it {does}; nothing was run or sent",
        where=str(folder.path),
        next_command=f"look at its plan.json and source/; if you trust it: {command}",
    )


def remember(plan_id: str, mark: str) -> None:
    """A plan that was just made is the user's own."""
    Plans().remember(plan_id, mark)


def recognise(workspace: Workspace, folder: PlanFolder, made: Draft) -> None:
    """Takes a plan of a version that kept no hashes where it holds nothing but the user's own experiment.

    Its `identity` file proves nothing, whoever wrote it: configs, and files that count, are compared.
    """
    try:
        unsealed = sealed(events_of(workspace.disk, folder)) is None
        if unsealed and not is_own(workspace, folder) and _holds_only(workspace, folder, made):
            _take(workspace, folder)
    except (BatchlingError, OSError, KeyError, TypeError, ValueError) as error:
        logging.getLogger(__name__).info("plan %s was not recognised: %s", folder.plan_id, error)


def _holds_only(workspace: Workspace, folder: PlanFolder, made: Draft) -> bool:
    from batchling import config
    from batchling.runner.points import asked, sha256_json

    mine = {file.name: file.content for point in made.points for file in point.spec.sources}
    for name in workspace.disk.files(folder.source):
        # Copies of configs are for people: what counts of them is in plan.json. Shipped ones change between versions.
        if not name.endswith((".yaml", ".yml")) and mine.get(name) != workspace.disk.read(folder.source / name):
            return False
    runs = folder.load(workspace.disk).runs
    if len(runs) != len(made.points):
        return False
    for run, point in zip(runs, made.points, strict=True):
        spec = config.load_spec(run.config, folder.source, run.overrides, kept_schema=run.schema or {})
        if sha256_json(asked(spec.document)) != point.config_sha256:
            return False
    return True


def _mark(workspace: Workspace, folder: PlanFolder) -> str:
    events = events_of(workspace.disk, folder)
    if not events:
        raise JournalError(f"the journal of plan {folder.plan_id} is empty", where=str(folder.journal))
    return mark_of(folder.plan_id, events[0], digests(workspace.disk, folder))


def _take(workspace: Workspace, folder: PlanFolder) -> None:
    check_seal(workspace.disk, folder, events_of(workspace.disk, folder))
    Plans().remember(folder.plan_id, _mark(workspace, folder))


def _question(workspace: Workspace, folder: PlanFolder, does: str) -> str:
    known = " (you know a plan of this name, with other content)" if Plans().named(folder.plan_id) else ""
    return f"Plan {folder.plan_id} is not known to be yours{known}. It {does}"


def foreign_code(document: PlanDocument) -> str | None:
    """Which adapter of another package a plan needs even to read its answers, as half a sentence."""
    names = sorted({str(provider.get("adapter") or _OWN_ADAPTER) for provider in _providers(document)} - {_OWN_ADAPTER})
    return f"runs the adapter {one_line(', '.join(names), 100)}" if names else None


def _does(document: PlanDocument) -> str:
    """What driving a plan would do beyond this process, as half a sentence; empty: nothing."""
    parts = []
    keys, addresses = [], []
    for provider in _providers(document):
        engine = provider.get("engine")
        kind = engine.get("kind") if isinstance(engine, dict) else None
        if provider.get("base_url") or not isinstance(engine, dict):
            addresses.append(str(provider.get("base_url")))
        elif kind not in ("simulated", "echo", None):
            addresses.append(str(engine.get("upstream")))
        else:
            continue
        try:
            keys += [f"{found.variable} to {found.host}" for found in recipients(provider)]
        except (ConfigError, TypeError, AttributeError):
            keys.append("a key to an address that cannot be read")
    if keys:
        parts.append("sends " + ", ".join(dict.fromkeys(keys)))
    elif addresses:
        parts.append("sends requests to " + ", ".join(dict.fromkeys(addresses)))
    if code := foreign_code(document):
        parts.append(code)
    if parts:
        parts += [f"runs {name}" for name in classes_of(document)]
    return one_line(" and ".join(parts), 400)


def classes_of(document: PlanDocument) -> list[str]:
    """The files and modules that a plan's pydantic classes are in."""
    named = [run.schema_class for run in document.runs if run.schema_class is not None]
    return list(dict.fromkeys(one_line(name.rpartition(":")[0], 100) for name in named))


def _providers(document: PlanDocument) -> list[Mapping[str, Any]]:
    return [run.provider_config for run in document.runs]
