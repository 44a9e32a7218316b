"""A live look at a provider: three rows are bought, and what it does where its pages are silent is written down.

It is for the questions that facts leave open: when a new batch shows in a list and with which marker, whether a create with a deleted
file is refused (the fence that lost submissions rest on), what becomes of a row that cannot be answered, which files there are at the end.
Every create is written into the report before it is sent, and none is sent twice.
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from batchling import providers
from batchling.api import verbs
from batchling.clock import Clock, RealClock
from batchling.config import facts, from_values
from batchling.config.project import Project
from batchling.disk import RealDisk, write_file
from batchling.errors import CallAmbiguous, CallError, CallNotFound, ConfigError, RefusedError
from batchling.limits import loads
from batchling.models import Batch, Garbage, Submission
from batchling.providers.gate import Gate
from batchling.providers.port import Client, Envelope
from batchling.scratch import scratch
from batchling.spec import Spec

ROWS = 3
SHORT = 16
"""Tokens of an answer."""

LISTED_WITHIN_SECONDS = 300.0
"""How long a new batch is looked for in the list."""

_BAD = b"{}"
"""A body that no endpoint can answer."""


@dataclass
class Report:
    """What was found, and what was sent to find it.

    Attributes:
        findings: question → answer, in the order found; no prompt, no answer, no key.
        submissions: each create with its state: intent, created, refused or unknown.
        over: every batch that was made has ended.
    """

    provider: str
    model: str
    started: str
    spend_usd: Decimal
    max_usd: Decimal
    path: Path
    findings: dict[str, Any] = field(default_factory=dict)
    submissions: list[dict[str, Any]] = field(default_factory=list)
    over: bool = False

    def document(self) -> dict[str, Any]:
        return {
            "kind": "batchling live smoke 1",
            "provider": self.provider,
            "model": self.model,
            "started": self.started,
            "spend_usd": format(self.spend_usd, "f"),
            "max_usd": format(self.max_usd, "f"),
            "over": self.over,
            "findings": self.findings,
            "submissions": self.submissions,
        }

    def save(self) -> None:
        """On disk when it returns."""
        write_file(RealDisk(), self.path, orjson.dumps(self.document(), option=orjson.OPT_INDENT_2) + b"\n")


def smoke(
    provider: str,
    spend: Decimal,
    *,
    project: Project,
    gate: Gate,
    model: str | None = None,
    wait_seconds: float = 3600.0,
    folder: Path | None = None,
    clock: Clock | None = None,
    tell: Callable[[str, Any], None] | None = None,
) -> Report:
    """Buys three rows and looks.

    Args:
        provider: a choice of `provider=`.
        spend: USD; what is sent costs at most this.
        model: a choice of `model=`; None: the provider's cheapest with a known price.
        wait_seconds: how long the batch is watched.
        folder: where the report is written; None: the project's root.
        tell: hears each finding.

    Raises:
        ConfigError: no such provider, or none of its models has a known price.
        RefusedError: the rows could cost more, or nobody confirmed where the key goes. Nothing was sent.
        ProviderError: its key is not set.
        CallError: the provider refuses the upload.
    """
    clock = clock or RealClock()
    now = datetime.fromtimestamp(clock.now(), UTC)
    spec = _spec(provider, model or _cheapest(project, provider, now.date()), project, now.date())
    config = spec.config
    with scratch("smoke") as runs:
        plan = verbs.plan_specs([spec], runs, show=ROWS + 1)
    if plan.max_usd is None:
        raise RefusedError(
            f"what {config.model.id} costs at {provider} in batches is not known, so nothing was bought",
            next_command="name another model (--model), or give its file a price",
        )
    if plan.max_usd > spend:
        raise RefusedError(
            f"{ROWS + 1} rows of {config.model.id} at {provider} cost up to {plan.max_usd:f} USD, which is above --spend {spend:f}"
        )
    client = providers.connect(config.provider, gate=gate)
    name = f"smoke-{provider}-{now:%Y%m%d-%H%M%S}.json"
    report = Report(
        provider,
        config.model.id,
        now.isoformat(timespec="seconds"),
        spend,
        plan.max_usd,
        (folder or project.root) / name,
    )
    bodies = [orjson.dumps(shown.body) for shown in plan.shown]
    look = _Look(
        client, providers.envelope(config.provider), spec, report, clock, tell or (lambda _question, _answer: None)
    )
    look.all(bodies, wait_seconds)
    return report


def _cheapest(project: Project, provider: str, today: date) -> str:
    known = [each for each in facts.models(project, provider, today=today) if each.price is not None]
    chat = [each for each in known if each.config.endpoint == "chat"]
    if not chat:
        raise ConfigError(
            f"no model of {provider} has a file with a known price",
            next_command="name one that has (--model), or write a file with model.price",
        )

    def cost(each: facts.ModelFacts) -> tuple[float, str]:
        assert each.price is not None
        return each.price.input + each.price.output, each.choice

    return min(chat, key=cost).choice


def _spec(provider: str, model: str, project: Project, today: date) -> Spec:
    """Four rows for the model, with short answers."""
    at = next((each.config for each in facts.providers(project) if each.choice == provider), None)
    chosen = next((each for each in facts.models(project, provider, today=today) if each.choice == model), None)
    asked: dict[str, Any] = {"id": model} if chosen is None else chosen.config.model_dump(mode="json")
    asked["max_output_tokens"] = min(asked.get("output_tokens") or SHORT, SHORT)
    at = at if chosen is None else chosen.at
    assert at is not None  # `facts.models` knows the provider
    document: dict[str, Any] = {
        "name": "smoke",
        "data": {"rows": [{"word": word} for word in ("one", "two", "three", "four")]},
        "model": asked,
        "provider": at.model_dump(mode="json"),
        "prompt": {"messages": [{"role": "user", "content": "Repeat the word {word}."}]},
    }
    return from_values(document, project.root)


class _Look:
    """The steps, each of which writes down what it found."""

    def __init__(
        self,
        client: Client,
        envelope: Envelope,
        spec: Spec,
        report: Report,
        clock: Clock,
        tell: Callable[[str, Any], None],
    ):
        self._client = client
        self._envelope = envelope
        self._path = spec.endpoint_path
        self._window = spec.config.provider.completion_window
        self._pause = spec.config.provider.poll_seconds
        self._report = report
        self._clock = clock
        self._tell = tell
        self._plan = secrets.token_hex(3)

    def all(self, bodies: list[bytes], wait_seconds: float) -> None:
        first = self._shard(1, [*bodies[: ROWS - 1], _BAD])
        batch = self._submit("three rows, the last of which cannot be answered", *first)
        if batch is None:
            self._report.save()
            return
        self._appears(batch, first[0])
        self._fence(bodies[ROWS])
        self._ends(batch.id, wait_seconds)
        self._report.save()

    def _found(self, question: str, answer: Any) -> None:
        self._report.findings[question] = answer
        self._report.save()
        self._tell(question, answer)

    def _shard(self, number: int, bodies: list[bytes]) -> tuple[Submission, bytes]:
        lines = [
            self._envelope.encode(f"smoke-{self._plan}-{number}-{row}", self._path, body)
            for row, body in enumerate(bodies, 1)
        ]
        content = b"".join(lines)
        digest = hashlib.sha256(content).hexdigest()
        return Submission(self._plan, number, 1, digest, self._path, len(bodies)), content

    def _submit(self, what: str, submission: Submission, content: bytes, *, delete: bool = False) -> Batch | None:
        """One create. None: it made no batch that is known of."""
        file_id = self._client.upload(submission, io.BytesIO(content))
        if delete and not self._client.fence(file_id):
            self._found("a deleted input file makes a create fail", "its files cannot be deleted")
            return None
        entry: dict[str, Any] = {"what": what, "rows": submission.requests, "file": file_id, "state": "intent"}
        self._report.submissions.append(entry)
        self._report.save()  # what spends has its intent on disk first
        began = self._clock.now()
        try:
            batch = self._client.create(submission, file_id, io.BytesIO(content), self._window)
        except CallAmbiguous as error:
            entry |= {"state": "unknown", "why": error.message}
            found = self._lost(began, submission, file_id)
            if found is None:
                self._found(
                    f"create ({what})", "unknown: its answer was lost, and no list shows it; it is not sent again"
                )
                return None
            batch = found
        except CallError as error:
            entry |= {"state": "refused", "why": error.message}
            self._found(f"create ({what})", f"refused: {error.status} {error.code or ''}".strip())
            return None
        entry |= {"state": "created", "batch": batch.id}
        self._found(f"create ({what})", {"seconds": self._since(began), "status": batch.status})
        return batch

    def _lost(self, began: float, submission: Submission, file_id: str) -> Batch | None:
        for _ in self._tries(LISTED_WITHIN_SECONDS):
            try:
                for batch in self._client.find(began):
                    if batch.input_file_id == file_id or batch.metadata == submission.metadata():
                        return batch
            except CallError:
                continue
        return None

    def _appears(self, batch: Batch, submission: Submission) -> None:
        try:
            self._client.poll(batch.id)
            self._found("a new batch is found by its id at once", True)
        except CallNotFound:
            self._found("a new batch is found by its id at once", False)
        except CallError as error:
            self._found("a new batch is found by its id at once", f"not told: {error.message}")
        began = self._clock.now()
        for _ in self._tries(LISTED_WITHIN_SECONDS):
            try:
                listed = list(self._client.find(began, limit_pages=1))
            except CallError as error:
                self._found("a list shows a new batch", f"not told: {error.message}")
                return
            for position, each in enumerate(listed):
                if each.id == batch.id:
                    self._found("a list shows a new batch", {"after_seconds": self._since(began), "position": position})
                    self._found("a list shows our metadata", each.metadata == submission.metadata())
                    self._found(
                        "a list shows the input file's id", each.input_file_id == batch.input_file_id is not None
                    )
                    return
        self._found("a list shows a new batch", f"not within {LISTED_WITHIN_SECONDS:g} s")

    def _fence(self, body: bytes) -> None:
        """A create with a file that was deleted: what a lost submission's late arrival would be."""
        question = "a deleted input file makes a create fail"
        try:
            batch = self._submit("one row, whose file is deleted first", *self._shard(2, [body]), delete=True)
        except CallError as error:
            self._found(question, f"not told: {error.message}")
            return
        if question in self._report.findings:
            return
        if batch is None:
            refused = self._report.submissions[-1]["state"] == "refused"
            self._found(question, True if refused else "not told: the answer was lost")
            return
        self._found(question, "no: it is accepted, and fails afterwards" if self._fails(batch.id) else False)

    def _fails(self, batch_id: str) -> bool:
        """Whether a batch without its file fails; one that does not is cancelled."""
        for _ in self._tries(LISTED_WITHIN_SECONDS):
            try:
                batch = self._client.poll(batch_id)
            except CallError:
                continue
            if batch.status == "failed":
                return True
            if batch.terminal:
                return False
        try:
            self._client.cancel(batch_id)
        except CallError as error:
            self._found("cancelling", f"refused: {error.message}")
        return False

    def _ends(self, batch_id: str, wait_seconds: float) -> None:
        began = self._clock.now()
        for _ in self._tries(wait_seconds):
            try:
                batch = self._client.poll(batch_id)
            except CallError:
                continue
            if batch.terminal:
                counts = {"total": batch.total, "completed": batch.completed, "failed": batch.failed}
                self._found("it ended", {"as": batch.status, "after_seconds": self._since(began), "counts": counts})
                for error in batch.errors[:3]:
                    self._found("an error of the batch", {"code": error.code, "line": error.line})
                self._report.over = True
                self._files(batch)
                return
        self._found("it ended", f"not within {wait_seconds:g} s; {batch_id} is still out")

    def _files(self, batch: Batch) -> None:
        seen: dict[str, str] = {}
        words = {"output": "output file", "errors": "error file"}
        try:
            files = self._client.result_files(batch)
        except CallError as error:
            self._found("files of results", f"cannot be listed: {error.message}")
            return
        for kind, name in words.items():
            if not any(file.kind == kind for file in files):
                self._found(name, "none")
        for number, file in enumerate(files):
            earlier = sum(other.kind == file.kind for other in files[:number])
            name = words.get(file.kind, file.kind) + (f" {earlier + 1}" if earlier else "")
            sink = io.BytesIO()
            try:
                size = self._client.fetch(file.id, sink)
            except CallError as error:
                self._found(name, f"cannot be read: {error.message}")
                continue
            lines = [line for line in sink.getvalue().split(b"\n") if line.strip()]
            self._found(name, {"bytes": size, "lines": len(lines), "shapes": sorted({_shape(line) for line in lines})})
            for line in lines:
                answer = self._envelope.decode(line + b"\n")
                if not isinstance(answer, Garbage):
                    seen[answer.custom_id] = name
        names = [f"smoke-{self._plan}-1-{row}" for row in range(1, ROWS + 1)]
        self._found("rows that were answered", sum(seen.get(each) is not None for each in names[:-1]))
        self._found("the row that cannot be answered is in", seen.get(names[-1], "neither file"))

    def _tries(self, seconds: float) -> Iterator[None]:
        """A turn now, then one after each pause, until the time is over."""
        end = self._clock.now() + seconds
        while True:
            yield
            if self._clock.now() >= end:
                return
            self._clock.sleep(self._pause)

    def _since(self, began: float) -> float:
        return round(self._clock.now() - began, 1)


def _shape(line: bytes) -> str:
    """A line's properties, two levels deep, without a value."""
    try:
        value = loads(line)
    except ValueError:
        return "not JSON"
    if not isinstance(value, dict):
        return type(value).__name__
    parts = []
    for key in sorted(value):
        inner = value[key]
        parts.append(f"{key}{{{','.join(sorted(inner))}}}" if isinstance(inner, dict) else f"{key}:{_kind(inner)}")
    return " ".join(parts)


def _kind(value: Any) -> str:
    names = {
        "NoneType": "null",
        "str": "text",
        "int": "number",
        "float": "number",
        "list": "list",
        "bool": "true or false",
    }
    return names.get(type(value).__name__, "other")
