"""plan.json: what a plan is, as one typed value. `plan` shows it, `run` writes it, and everything later reads it here.

A plan never changes, so the file is written once, and its hash is in the journal: an older file is read through `upgrade`
and left as it is. It holds no secret, because configs only name keys.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, TypeVar

import orjson

from batchling import limits
from batchling.models import Price

VERSION = 1
"""Of the file's form. Fields are only added to it, and `upgrade` says what their absence means."""

LARGEST = 512 << 20
"""Bytes beyond which a file is not read; a sweep of 100,000 runs has about half of that."""

METRIC_SECONDS = 60.0
"""How long a metric may take where the config does not say (plans of version 0.1.0)."""

MEMORY_MB = 768
"""MiB that a metric may take where the config does not say."""

_INSIDE = re.compile(r"[\w+~-][\w.+~-]*")


class Unreadable(ValueError):
    """A plan.json that this version cannot read; the message says why, without the file's place."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """Rows of one batch that may have been paid and were not received.

    Attributes:
        rows: requests, equal ones once.
        batch_id: None when it is not known whether there is a batch.
        given_up: a person gave the batch up; else its files did not arrive whole.
    """

    plan_id: str
    shard: int
    attempt: int
    batch_id: str | None
    rows: int
    given_up: bool = False

    @property
    def place(self) -> str:
        """`shard 1 batch batch_…`."""
        return f"shard {self.shard}" + (f" batch {self.batch_id}" if self.batch_id else "")


@dataclass(frozen=True, slots=True)
class PlanLane:
    """One provider, endpoint and model: what the requests of one batch share.

    Attributes:
        endpoint: the path of its URL.
        input_tokens: of all its requests; None: not counted.
        learned_tokens, learned_requests: limits on what may wait at once, which refusals had taught when the plan was made.
    """

    lane: int
    provider: str
    base_url: str
    endpoint: str
    model: str
    requests: int = 0
    input_tokens: int | None = None
    learned_tokens: int | None = None
    learned_requests: int | None = None

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Provider, address, endpoint and model: what narrows the search for answers."""
        return self.provider, self.base_url, self.endpoint, self.model


@dataclass(frozen=True, slots=True, eq=False)
class PlanRun:
    """One run of a plan.

    Attributes:
        lane: number of the lane that its requests go to.
        config: the composed config, resolved; what it says is read through the properties below.
        data: its rows' file, below the plan's folder.
        rows: without repeats.
        price: what it costs; None: not known.
        schema: the JSON Schema that is sent; None: plain text.
        schema_index: position of its schema among the plan's; schema_sha256: None in plans that have no hashes.
        repairs_once: what `retry.repair: true` meant when the plan was made: one repair, else as many as there are attempts.
        output_type: DuckDB type of a valid output; None for plain text. data_type: of a row.
        metrics: name → DuckDB expression.
        tokens: how tokens were counted.
    """

    run_id: str
    lane: int
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    config_sha256: str | None
    prompt_sha256: str | None
    data_sha256: str | None
    data: str
    rows: int
    repeats: int
    provider: str
    model: str
    endpoint: str
    price: Price | None
    columns: tuple[str, ...]
    schema: Mapping[str, Any] | None
    schema_index: int
    schema_sha256: str | None
    repairs_once: bool
    output_type: str | None
    data_type: str | None
    metrics: Mapping[str, str]
    tokens: str | None

    @property
    def records(self) -> int:
        """Rows × repeats."""
        return self.rows * self.repeats

    @property
    def pretend(self) -> bool:
        """Its price is made up: `provider.engine.pretend`."""
        return self.price is not None and self.price.pretend

    @property
    def override_text(self) -> str:
        """The overrides as they would be typed."""
        return shlex.join(self.overrides)

    @property
    def description(self) -> str | None:
        found: str | None = self._said("description", str)
        return found

    @property
    def provider_config(self) -> Mapping[str, Any]:
        """The config's `provider` section; it may be anybody's."""
        found = self.config.get("provider")
        return found if isinstance(found, Mapping) else {}

    @property
    def schema_class(self) -> str | None:
        """`file.py:Class` or `package.module:Class` of a schema that is code."""
        schema = self.config.get("schema")
        named = schema.get("pydantic") if isinstance(schema, Mapping) else None
        return str(named) if named else None

    @property
    def attempts(self) -> int:
        """Times a row is asked at most."""
        return self._said("retry.attempts", int) or 1

    @property
    def repair(self) -> bool | int:
        """`retry.repair`."""
        found = self._said("retry.repair", bool, int)
        return True if found is None else found

    @property
    def budget_usd(self) -> Decimal | None:
        return _usd(self._said("budget.usd", int, float))

    @property
    def confirm_usd(self) -> Decimal:
        """What may be spent without a question."""
        return _usd(self._said("budget.confirm_usd", int, float)) or Decimal(0)

    @property
    def resubmit_usd(self) -> Decimal:
        """What a submission may cost that is sent again without proof that it did not happen."""
        return _usd(self._said("retry.resubmit_usd", int, float)) or Decimal(0)

    @property
    def max_output_tokens(self) -> int | None:
        found: int | None = self._said("model.max_output_tokens", int)
        return found

    @property
    def metric_seconds(self) -> float:
        """How long each of its metrics may take."""
        return float(self._said("limits.metric_seconds", int, float) or METRIC_SECONDS)

    @property
    def memory_mb(self) -> int:
        """MiB that a metric may take."""
        return self._said("limits.memory_mb", int) or MEMORY_MB

    def overridden(self, key: str) -> str | None:
        """What the run's overrides set a key to, the last one; None: they do not."""
        for text in reversed(self.overrides):
            name, _, value = text.lstrip("+~").partition("=")
            if name == key:
                return value
        return None

    def configured(self, key: str) -> Any:
        """What the config has at a dotted key.

        Raises:
            KeyError: nothing, not even null.
        """
        found: Any = self.config
        for part in key.split("."):
            if not isinstance(found, Mapping):
                raise KeyError(key)
            found = found[part]
        return found

    def _said(self, key: str, *kinds: type) -> Any:
        try:
            found = self.configured(key)
        except KeyError:
            return None
        if found is not None and (not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds)):
            raise Unreadable(f"run {self.run_id} has {key} {found!r}"[:200])
        return found


@dataclass(frozen=True, slots=True, eq=False)
class PlanDocument:
    """A plan as it was made. USD None: not known.

    Attributes:
        plan_id: empty, as the beginning of its runs' ids, where the plan is only shown and never made.
        identity: hash of what it was made from.
        created_at: Unix seconds.
        command: what makes it again, as it would be typed.
        simulated: no model was asked.
        python, packages, git: what it was made with.
        requests: to be sent; cached: answered before; awaiting: in flight in another plan; duplicates: rows that share
            a request with another row.
        doubtful: rows that it leaves out, because an earlier plan may have paid for them; doubted: how many of its
            requests may have been paid before, and are asked again.
    """

    plan_id: str
    identity: str | None
    experiment: str
    created_at: float
    command: str
    simulated: bool
    python: str | None
    packages: Mapping[str, Any]
    git: Mapping[str, Any]
    requests: int
    cached: int
    duplicates: int | None
    awaiting: int
    estimated_usd: Decimal | None
    estimated_usd_max: Decimal | None
    lanes: tuple[PlanLane, ...]
    runs: tuple[PlanRun, ...]
    doubtful: tuple[Doubt, ...] = ()
    doubted: int = 0

    @property
    def rows(self) -> int:
        """Of all its runs, with their repeats."""
        return sum(run.records for run in self.runs)

    @property
    def asked(self) -> int:
        """Requests that its rows make, whoever answers them."""
        return self.requests + self.cached + self.awaiting

    @property
    def budget_usd(self) -> Decimal | None:
        """The tightest of its runs' budgets."""
        return min((run.budget_usd for run in self.runs if run.budget_usd is not None), default=None)

    @property
    def confirm_usd(self) -> Decimal:
        return min((run.confirm_usd for run in self.runs), default=Decimal(0))

    @property
    def resubmit_usd(self) -> Decimal:
        return min((run.resubmit_usd for run in self.runs), default=Decimal(0))

    @property
    def attempts(self) -> int:
        """Times a row is asked at most."""
        return max((run.attempts for run in self.runs), default=1)

    def repairs(self, lane: int, allowed: bool | int | None = None) -> int:
        """How many times a row of the lane is repaired at most: `retry.repair`, of which `true` means once.

        A plan that does not say what `true` meant when it was made repairs as often as its attempts allow, as it always did.

        Args:
            allowed: what counts in place of the plan's own `retry.repair`.
        """
        most = 0
        for run in self.runs_of(lane):
            if run.schema is not None:
                wanted = run.repair if allowed is None else allowed
                most = max(most, self.attempts if wanted is True and not run.repairs_once else int(wanted))
        return most

    def runs_of(self, lane: int) -> Iterator[PlanRun]:
        return (run for run in self.runs if run.lane == lane)

    @property
    def schema_hashes(self) -> dict[int, str]:
        """Position → hash of the plan's schemas; plans of 0.1.0 have no hashes."""
        return {run.schema_index: run.schema_sha256 for run in self.runs if run.schema_sha256}

    def write(self) -> bytes:
        """The file's bytes."""
        said = {f.name: getattr(self, f.name) for f in fields(self)}
        return orjson.dumps({"version": VERSION, **said}, default=_plain, option=orjson.OPT_INDENT_2)


def read(data: bytes) -> PlanDocument:
    """plan.json as it is on the disk, of this version or an earlier one.

    Raises:
        Unreadable: it is no JSON, of another version, or without what every plan says of itself.
    """
    if len(data) > LARGEST:
        raise Unreadable("plan.json is too large")
    try:
        said = limits.own(data)
    except ValueError as error:
        raise Unreadable(f"plan.json cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise Unreadable("plan.json is not a JSON object")
    if said.get("version") != VERSION:
        raise Unreadable(f"plan.json is of another version of batchling ({said.get('version')!r})"[:200])
    document = _made(PlanDocument, upgrade(said), "plan.json has {name} {value!r}")
    for run in document.runs:
        if not (_INSIDE.fullmatch(run.run_id) and _INSIDE.fullmatch(run.data.removeprefix("data/"))):
            raise Unreadable("plan.json names a file outside the plan")
        _check_settings(run)
    return document


def upgrade(said: dict[str, Any]) -> dict[str, Any]:
    """A file's content with what later versions say, as the version that wrote it meant it.

    0.1.0 has no hashes of schemas, repaired a row as often as its attempts allowed, learned no limit on requests, and
    asked nothing that might have been paid before. Optional fields that are missing have their class's default.
    """
    unsaid: dict[str, Any] = {
        "python": None,
        "packages": {},
        "git": {},
        "duplicates": None,
        "awaiting": 0,
        "identity": None,
    }
    unsaid |= {"estimated_usd": None, "estimated_usd_max": None, "doubtful": [], "doubted": 0}
    of_run: dict[str, Any] = {
        "config_sha256": None,
        "prompt_sha256": None,
        "data_sha256": None,
        "price": None,
        "schema": None,
    }
    of_run |= {"schema_sha256": None, "repairs_once": False, "output_type": None, "data_type": None, "tokens": None}
    of_run |= {"metrics": {}}
    found = {**unsaid, **said}
    runs = found.get("runs")
    if isinstance(runs, list):
        found["runs"] = [{**of_run, **run} if isinstance(run, dict) else run for run in runs]
    lanes = found.get("lanes")
    if isinstance(lanes, list):
        found["lanes"] = [{"base_url": "", **lane} if isinstance(lane, dict) else lane for lane in lanes]
    return found


def _check_settings(run: PlanRun) -> None:
    """Raises: Unreadable, where a setting is of another type; they are not looked at again when they are used."""
    _ = (run.description, run.attempts, run.repair, run.budget_usd, run.confirm_usd, run.resubmit_usd)
    _ = (run.max_output_tokens, run.metric_seconds, run.memory_mb)


def _usd(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(type(value).__name__)


_T = TypeVar("_T")
_Reader = Callable[[Any], Any]


def _made(kind: Callable[..., _T], said: Any, words: str) -> _T:
    """A dataclass from a JSON object: each field of the type that its annotation says."""
    if not isinstance(said, dict):
        raise Unreadable(words.format(name="entry", value=said)[:200])
    values = {}
    for name, reader, required in _readers(kind):
        if name not in said and not required:
            continue
        value = said.get(name)
        try:
            values[name] = reader(value)
        except Unreadable:
            raise
        except (TypeError, ValueError, InvalidOperation):
            raise Unreadable(words.format(name=name, value=value)[:200]) from None
    return kind(**values)


@cache
def _readers(kind: Any) -> tuple[tuple[str, _Reader, bool], ...]:
    return tuple((f.name, _READERS[str(f.type)], f.default is MISSING) for f in fields(kind))


def _one_of(*kinds: type) -> _Reader:
    def check(value: Any) -> Any:
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise TypeError(value)
        return value

    return check


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_one_of(str)(text) for text in _one_of(list)(value))


def _listed(kind: type, words: str) -> _Reader:
    return lambda value: tuple(_made(kind, each, words) for each in _one_of(list)(value))


def _amount(value: Any) -> Decimal | None:
    """Only ever shown: what is no amount is none that is known."""
    try:
        return _usd(value)
    except InvalidOperation:
        return None


_READERS: dict[str, _Reader] = {
    "str": _one_of(str),
    "str | None": _one_of(str, type(None)),
    "int": _one_of(int),
    "int | None": _one_of(int, type(None)),
    "float": _one_of(int, float),
    "float | None": _one_of(int, float, type(None)),
    "bool": _one_of(bool),
    "tuple[str, ...]": _texts,
    "Mapping[str, Any]": _one_of(dict),
    "Mapping[str, Any] | None": _one_of(dict, type(None)),
    "Mapping[str, str]": _one_of(dict),
    "Decimal | None": _amount,
    "Price | None": lambda value: (
        None if value is None else _made(Price, value, "plan.json has a price with {name} {value!r}")
    ),
    "tuple[PlanLane, ...]": _listed(PlanLane, "plan.json has no readable {name} in one of its lanes"),
    "tuple[PlanRun, ...]": _listed(PlanRun, "plan.json has no readable {name} in one of its runs"),
    "tuple[Doubt, ...]": _listed(Doubt, "plan.json has no readable {name} in what it leaves out"),
}
