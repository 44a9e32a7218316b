"""Points: runs made ready to be compiled, and the lanes that they share."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from batchling import cost, providers, schema, tokens
from batchling.catalog import plan_files, references
from batchling.errors import ConfigError, DataError, UsageError
from batchling.ledger import Lane
from batchling.models import Price
from batchling.packing import ShardLimits
from batchling.providers import Envelope
from batchling.request import address
from batchling.runner.shards import LaneShape
from batchling.schema import OutputSchema
from batchling.spec import Config, EngineConfig, Spec

UNHASHED = ("budget", "limits", "retry", "paths", "description", "sweep", "environment")
"""Sections that say how to wait, pack and pay, not what to ask: they make no new plan."""

MODEL_FACTS = (
    "context_tokens",
    "output_tokens",
    "refuses",
    "strict_schema",
    "json_mode",
    "tokenizer_file",
    "checked",
    "source",
)
"""Keys of `model` that a plan's notes, errors and estimates rest on, and how the schema is sent: that is in its hash."""


LATER_ENGINE = EngineConfig().model_dump(mode="json", include={"seed", "faults", "pretend"})
"""Keys of `provider.engine` that came later, with the values that say nothing."""

LATER_DATA: dict[str, Any] = {"table": None, "dsn_env": None, "databases": {}}
"""The same for `data`."""

UNASKED = ("allow_http", "key_origins", "windows", "refuses", "token_factor")
"""Keys of `provider` that say where a key may go, what is an error before a plan is made or how tokens are estimated."""


def sha256_json(value: Any) -> str:
    """SHA-256 of a value as canonical JSON (sorted keys), in hexadecimal."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Point:
    """One run, ready: schema compiled, tokens countable, price known or known to be unknown.

    Attributes:
        lane: number of the lane that its requests go to.
        schema_index: position of its schema among the plan's.
        data_key: equal for points that read the same rows.
        price: what the run costs; None when unknown. `model_price`: what the named model would cost elsewhere
            (for local runs, which cost nothing).
    """

    spec: Spec
    lane: int
    schema: OutputSchema | None
    schema_index: int
    counter: tokens.Counter
    price: Price | None
    data_key: str
    config_sha256: str
    prompt_sha256: str
    schema_sha256: str

    @property
    def local(self) -> bool:
        return is_local(self.spec)


def is_local(spec: Spec) -> bool:
    """The embedded server answers: no base URL of anybody else's, and an engine instead."""
    return spec.config.provider.engine is not None and spec.config.provider.base_url is None


@dataclass(frozen=True, slots=True, eq=False)
class LanePlan:
    """One lane before anything is connected: what its batches have in common.

    Attributes:
        group: names the connection: provider, address and key variable.
        learned_tokens: the enqueued-token limit that an earlier plan was told in a refusal; it counts in `limits` and
            `enqueued_tokens`. learned_requests: the same for requests.
    """

    number: int
    spec: Spec
    group: str
    path: str
    model: str
    limits: ShardLimits
    enqueued_tokens: int | None
    concurrent_batches: int | None
    creations_per_hour: int | None
    settle_seconds: float
    poll_seconds: float
    price: Price | None
    max_output_tokens: int | None
    learned_tokens: int | None = None
    enqueued_requests: int | None = None
    learned_requests: int | None = None

    def worst(self, requests: int, input_tokens: int | None) -> Decimal | None:
        """USD that these requests can cost at most; None when price or a length limit is unknown."""
        price = self.price
        if price is None:
            return None
        if not price.input and not price.output:
            return Decimal(0)
        if input_tokens is None:
            return None
        output = 0
        if price.output:
            if self.max_output_tokens is None:
                return None
            output = requests * self.max_output_tokens
        return cost.usd(price, input_tokens, output)

    @property
    def slug(self) -> str:
        """The connection's name for a folder."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.group).strip("-")[:60]

    def covering(self, max_output_tokens: int | None, price: Price | None) -> LanePlan:
        """The lane with a worst case that covers one more run."""
        if self.price is None or price is None:
            price = None
        else:
            price = replace(
                price, input=max(price.input, self.price.input), output=max(price.output, self.price.output)
            )
        longest = None
        if max_output_tokens is not None and self.max_output_tokens is not None:
            longest = max(max_output_tokens, self.max_output_tokens)
        return replace(self, price=price, max_output_tokens=longest)

    def within(self, learned_tokens: int | None, learned_requests: int | None = None) -> LanePlan:
        """The lane with limits, on what may wait at once, that refusals taught."""
        if learned_tokens is None and learned_requests is None:
            return self
        return replace(
            self,
            limits=replace(
                self.limits,
                max_tokens=_least(self.limits.max_tokens, learned_tokens),
                max_requests=_least(self.limits.max_requests, learned_requests),
            ),
            enqueued_tokens=_least(self.enqueued_tokens, learned_tokens),
            enqueued_requests=_least(self.enqueued_requests, learned_requests),
            learned_tokens=learned_tokens,
            learned_requests=learned_requests,
        )

    def shape(self) -> LaneShape:
        return LaneShape(self.number, self.path, self.limits, self.envelope.encode, self.worst)

    @property
    def envelope(self) -> Envelope:
        """How the lane's lines are written and read."""
        return providers.envelope(self.spec.config.provider)

    def lane(self) -> Lane:
        capabilities = self.spec.config.provider.capabilities
        return Lane(
            number=self.number,
            group=self.group,
            model=self.model,
            settle_seconds=self.settle_seconds,
            can_list=capabilities.list,
            can_fence=capabilities.fence != "none",
            marked=capabilities.marker != "results",
            enqueued_tokens=self.enqueued_tokens,
            enqueued_requests=self.enqueued_requests,
            concurrent_batches=self.concurrent_batches,
            creations_per_hour=self.creations_per_hour,
        )


def _least(*values: int | None) -> int | None:
    known = [v for v in values if v is not None]
    return min(known) if known else None


def lane_plan(number: int, spec: Spec, price: Price | None) -> LanePlan:
    config = spec.config
    provider, own = config.provider, config.limits
    enqueued = provider.limits.enqueued_tokens
    if isinstance(enqueued, dict):
        enqueued = enqueued.get(config.model.id)
    enqueued = _least(enqueued, own.enqueued_tokens)
    limits = ShardLimits(
        max_requests=_least(provider.limits.max_requests, own.max_requests, own.enqueued_requests),
        max_bytes=_least(provider.limits.max_bytes, own.max_bytes),
        max_line_bytes=provider.limits.max_line_bytes,
        max_tokens=enqueued,
        max_inputs=provider.limits.max_inputs if config.model.endpoint == "embeddings" else None,
    )
    return LanePlan(
        number=number,
        spec=spec,
        group=" ".join([provider.name, address(config), provider.api_key_env or "", *_hidden_headers(config)]).strip(),
        path=spec.endpoint_path,
        model=config.model.id,
        limits=limits,
        enqueued_tokens=enqueued,
        enqueued_requests=own.enqueued_requests,
        concurrent_batches=_least(provider.limits.concurrent_batches, own.concurrent_batches),
        creations_per_hour=_least(provider.limits.creations_per_hour, own.creations_per_hour),
        settle_seconds=own.settle_seconds if own.settle_seconds is not None else provider.capabilities.settle_seconds,
        poll_seconds=own.poll_seconds or provider.poll_seconds,
        price=price,
        max_output_tokens=config.model.max_output_tokens,
    )


def make_ready(specs: Sequence[Spec]) -> tuple[list[Point], list[LanePlan]]:
    """Points in order, and the lanes that they share.

    Raises:
        SchemaError: a schema that strict mode cannot express.
    """
    points: list[Point] = []
    lanes: dict[tuple[Any, ...], LanePlan] = {}
    schemas: dict[str, tuple[int, OutputSchema | None]] = {}
    counters: dict[tuple[Any, ...], tokens.Counter] = {}
    today = datetime.now(UTC).date()
    for spec in specs:
        config = spec.config
        price = cost.price_of(config.model, config.provider, now=today)
        key = (
            config.provider.name,
            address(config),
            config.provider.api_key_env,
            spec.endpoint_path,
            config.model.id,
            config.provider.completion_window,
            tuple(sorted(config.provider.headers.items())),
            tuple(sorted(config.provider.headers_env.items())),
        )
        lane = lanes.get(key)
        lanes[key] = (
            lane_plan(len(lanes), spec, price) if lane is None else lane.covering(config.model.max_output_tokens, price)
        )
        modules = sorted(
            (f.name, hashlib.sha256(f.content).hexdigest()) for f in spec.sources if f.name.endswith(".py")
        )
        sent = schema.sending(config.output_schema, config.model)
        said = [config.output_schema.model_dump(mode="json", exclude={"send"}), modules, _schema_document(spec)]
        plain = "strict" if config.output_schema.strict else "nothing"
        schema_sha = sha256_json(said if sent == plain else [*said, sent])
        if schema_sha not in schemas:
            source = spec.schema_source
            compiled = None
            if config.output_schema.fields is not None or source is not None:
                compiled = schema.compile(config.output_schema, source, model=config.model)
            schemas[schema_sha] = (len(schemas), compiled)
        index, compiled = schemas[schema_sha]
        counting = (
            config.tokens,
            config.model.id,
            config.model.tokenizer,
            config.model.tokenizer_file,
            config.model.token_factor,
            config.provider.name,
            config.provider.token_factor,
        )
        if counting not in counters:
            with spec.placing():
                counters[counting] = tokens.counter(config.model, config.provider, tokens=config.tokens)
        identity = asked(spec.document)
        points.append(
            Point(
                spec=spec,
                lane=lanes[key].number,
                schema=compiled,
                schema_index=index,
                counter=counters[counting],
                price=price,
                data_key=sha256_json([spec.config.data.model_dump(mode="json"), str(spec.root)]),
                config_sha256=sha256_json(identity),
                prompt_sha256=sha256_json([spec.messages, spec.input, config.prompt.engine]),
                schema_sha256=schema_sha,
            )
        )
    _check_pretend(points)
    return points, list(lanes.values())


def _check_pretend(points: Sequence[Point]) -> None:
    """Money that is made up is never added to money that is paid."""
    pretending = [p for p in points if p.price is not None and p.price.pretend]
    paying = [p for p in points if p.price is None or (not p.price.pretend and (p.price.input or p.price.output))]
    if pretending and paying:
        raise ConfigError(
            f"{pretending[0].spec.config.model.id} has a pretend price and {paying[0].spec.config.model.id} a real one: "
            "one plan cannot add up their costs",
            next_command="run them as two plans, or set provider=local provider.engine.pretend for all of them",
        )


def asked(document: dict[str, Any]) -> dict[str, Any]:
    """What of a run's config makes a plan another plan. Keys that came later are left out while they say nothing."""
    identity = {k: v for k, v in document.items() if k not in UNHASHED}
    provider = {k: v for k, v in document["provider"].items() if k not in UNASKED}
    if not provider.get("headers_env"):
        provider.pop("headers_env", None)
    if provider.get("engine") is not None:
        provider["engine"] = {
            k: v for k, v in provider["engine"].items() if k not in LATER_ENGINE or v != LATER_ENGINE[k]
        }
    # Retired keys stand in the identity of earlier plans with these values.
    provider |= {"one_model": True, "one_endpoint": True}
    provider["capabilities"] = {**provider["capabilities"], "list_filter": None}
    if "data" in identity:
        identity["data"] = {k: v for k, v in identity["data"].items() if k not in LATER_DATA or v != LATER_DATA[k]}
    model = {k: v for k, v in document["model"].items() if k not in MODEL_FACTS}
    if "schema" in identity:
        identity["schema"] = {k: v for k, v in identity["schema"].items() if (k, v) != ("send", "auto")}
    return {**identity, "provider": provider, "model": model}


def _hidden_headers(config: Config) -> list[str]:
    return [f"{header}={variable}" for header, variable in sorted(config.provider.headers_env.items())]


def _schema_document(spec: Spec) -> Any:
    source = spec.schema_source
    if source is None or isinstance(source, dict):
        return source
    return schema.model_document(source)


def run_lookup_in(runs: Path) -> Callable[[str], Path]:
    """Finds the records of an earlier run by run id, plan id or experiment name (its newest plan)."""

    def find(reference: str) -> Path:
        try:
            plan_dir = references.resolve(runs, reference).plan_dir
            plan_files.has_records(plan_dir)
            return plan_dir / "records.parquet"
        except UsageError as error:
            raise DataError(f"data.run: {error.message}", where=str(runs), next_command="batchling status") from None

    return find
