"""From a plan's folder to what its lanes need at run time: schemas, prices, providers, embedded servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from batchling import config, providers, request, schema, shipped
from batchling.api.ownership import foreign_code, not_taken
from batchling.disk import Disk
from batchling.models import Price
from batchling.plan_document import PlanDocument, PlanRun
from batchling.providers import Client
from batchling.providers.gate import Gate
from batchling.request import RequestBuilder
from batchling.runner.broken import as_broken, events_of
from batchling.runner.caching import cached_tags, decode_cache
from batchling.runner.compiling import request_builder
from batchling.runner.folder import PlanFolder
from batchling.runner.judging import Schemas
from batchling.runner.points import LanePlan, is_local, lane_plan
from batchling.runner.sealing import check_seal
from batchling.runner.session import LaneKit
from batchling.scrub import Scrubber, is_placeholder
from batchling.spec import ProviderConfig, Spec
from batchling.trust import COMPATIBLE

if TYPE_CHECKING:
    from batchling.local.server import LocalServer


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """A plan as its folder records it.

    Attributes:
        specs: one run of each lane, by lane number; `schemas` by position.
    """

    folder: PlanFolder
    document: PlanDocument
    lanes: tuple[LanePlan, ...]
    specs: Mapping[int, Spec]
    schemas: Schemas

    @property
    def prices(self) -> dict[int, Price | None]:
        return {lane.number: lane.price for lane in self.lanes}


def recorded(disk: Disk, folder: PlanFolder, *, own: bool) -> Recorded:
    """Loads a plan from its own copies of configs, prompts and schemas.

    Args:
        own: the plan is the user's: its code may be imported. Else the JSON Schema that plan.json keeps takes the place of
            a pydantic class.

    Raises:
        ChangedError: a file that it was made from was changed.
        JournalError: plan.json is missing, of another version, or no plan that this version can read.
        RefusedError: it needs the adapter of another package, and is not the user's.
        UsageError: a prompt or schema of it is missing.
    """
    check_seal(disk, folder, events_of(disk, folder))
    document = folder.load(disk)
    if not own and (why := foreign_code(document)):
        raise not_taken(folder, why, f"batchling doctor --rebuild {folder.plan_id} --trust")
    try:
        return _recorded(folder, document, own)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise as_broken(folder, error) from error


def _recorded(folder: PlanFolder, document: PlanDocument, own: bool) -> Recorded:
    specs: dict[int, Spec] = {}
    lanes: dict[int, LanePlan] = {}
    schemas: dict[int, Any] = {}
    for run in document.runs:
        spec = None
        if run.lane not in lanes or run.schema_index not in schemas:
            spec = spec_of(folder, run, own=own)
        if run.schema_index not in schemas and spec is not None:
            config_of = spec.config
            schemas[run.schema_index] = schema.compile(
                config_of.output_schema, spec.schema_source, model=config_of.model
            )
        if run.lane not in lanes and spec is not None:
            specs[run.lane] = spec
            lanes[run.lane] = lane_plan(run.lane, spec, run.price)
        else:
            lanes[run.lane] = lanes[run.lane].covering(run.max_output_tokens, run.price)
    ordered = tuple(
        lanes[number].within(document.lanes[number].learned_tokens, document.lanes[number].learned_requests)
        for number in sorted(lanes)
    )
    return Recorded(folder, document, ordered, specs, schemas)


def spec_of(folder: PlanFolder, run: PlanRun, *, own: bool) -> Spec:
    """A run's spec, from the plan's own copies of its files; `own` as for `recorded`."""
    return config.load_spec(run.config, folder.source, run.overrides, kept_schema=None if own else run.schema or {})


def admit(lanes: Sequence[LanePlan], gate: Gate) -> None:
    """Before a plan that will be sent is made: every key is there and may go where it would go.

    Raises:
        ProviderError: a key's variable is not set, or holds no key; no plan is made then.
        RefusedError: nobody confirmed that the key may go there; the same.
    """
    for lane in lanes:
        spec = lane.spec
        gate.admit(spec.config.provider, compatible=names_shipped(spec, COMPATIBLE), where=_address_set_at(spec))


def names_shipped(spec: Spec, name: str) -> bool:
    """Whether the run's provider is the shipped one of that name, and not a project's own file that is called so."""
    if spec.config.provider.name != name:
        return False
    copies = [file for file in spec.sources if f"/{file.name}".endswith(f"/provider/{name}.yaml")]
    return not copies or any(file.content == shipped.provider_file(name).read_bytes() for file in copies)


def _address_set_at(spec: Spec) -> str | None:
    return spec.set_at("provider.engine.upstream" if is_local(spec) else "provider.base_url")


class _Unconnected:
    """Stands for the client where nothing is sent or asked."""

    def __init__(self, facts: ProviderConfig):
        self.facts = facts


def kits(made: Recorded, stack: ExitStack, gate: Gate) -> tuple[LaneKit, ...]:
    """Connects every lane; embedded servers are started and stop when `stack` closes.

    Every key passes the gate before anything is connected or started.

    Raises:
        ProviderError: a key's variable is not set, or holds no key.
        RefusedError: nobody confirmed that the key may go there.
    """
    values = {lane.number: gate.admit(made.specs[lane.number].config.provider) for lane in made.lanes}
    connected: dict[str, Client] = {}
    built = []
    for lane in made.lanes:
        spec = made.specs[lane.number]
        client = connected.get(lane.group)
        if client is None:
            if is_local(spec):
                server = _embedded(made.folder, lane, stack, values[lane.number])
                client = providers.connect(
                    spec.config.provider, base_url=server.base_url, token=server.options.token, gate=gate
                )
            else:
                client = providers.connect(spec.config.provider, gate=gate)
            connected[lane.group] = client
        repairer = _repairer(made, lane)
        built.append(
            LaneKit(
                lane=lane.lane(),
                shape=lane.shape(),
                client=client,
                envelope=lane.envelope,
                schemas=made.schemas,
                price=lane.price,
                window=spec.config.provider.completion_window,
                poll_seconds=lane.poll_seconds,
                grace_seconds=spec.config.provider.capabilities.not_found_grace_seconds,
                repair=repairer.repair if repairer is not None else None,
                repairs=made.document.repairs(lane.number),
                repair_key=request.repair_key,
                max_output_tokens=lane.max_output_tokens,
                scrubber=Scrubber(v for v in values[lane.number].values() if not is_placeholder(v)),
            )
        )
    return tuple(built)


def offline_kits(made: Recorded) -> tuple[LaneKit, ...]:
    """Every lane without a connection: what is on the disk can be read and given up, nothing is sent or asked."""
    built = []
    for lane in made.lanes:
        repairer = _repairer(made, lane)
        built.append(
            LaneKit(
                lane=lane.lane(),
                shape=lane.shape(),
                client=cast(Client, _Unconnected(lane.spec.config.provider)),
                envelope=lane.envelope,
                schemas=made.schemas,
                price=lane.price,
                window="",
                poll_seconds=lane.poll_seconds,
                repair=repairer.repair if repairer is not None else None,
                repairs=made.document.repairs(lane.number),
                repair_key=request.repair_key,
                max_output_tokens=lane.max_output_tokens,
            )
        )
    return tuple(built)


def _repairer(made: Recorded, lane: LanePlan) -> RequestBuilder | None:
    """What makes the repairs, whether any are allowed or not: a later command may allow them."""
    run = next((run for run in made.document.runs_of(lane.number) if run.schema is not None), None)
    spec = made.specs[lane.number]
    if run is None:
        return None
    made_by = request_builder(spec, run.columns, made.schemas[run.schema_index])
    return made_by if made_by.repairs else None


def _embedded(folder: PlanFolder, lane: LanePlan, stack: ExitStack, values: Mapping[str, str]) -> LocalServer:
    """Starts the embedded server on the plan's own state."""
    from batchling.local.options import ServerOptions
    from batchling.local.server import start_in_process

    engine = lane.spec.config.provider.engine
    assert engine is not None
    limits = lane.spec.config.provider.limits
    server = start_in_process(
        ServerOptions(
            state_dir=folder.local / lane.slug,
            engine=engine,
            max_requests=limits.max_requests or 50_000,
            enqueued_tokens=limits.enqueued_tokens,
            creations_per_hour=limits.creations_per_hour,
            concurrent_batches=limits.concurrent_batches,
            upstream_key=values.get(engine.api_key_env or ""),
        )
    )
    stack.callback(server.stop)
    return server


def decode_cached(disk: Disk, made: Recorded, *, again: bool = False) -> None:
    """Decodes reused answers by the plan's own schemas, where that is not done yet."""
    for tag in cached_tags(disk, made.folder):
        target = made.folder.responses / f"{tag}.decoded.jsonl"
        if again or not disk.exists(target):
            decode_cache(
                disk,
                made.folder,
                made.schemas,
                made.prices,
                lambda lane: providers.envelope(made.specs[lane].config.provider).decode,
                tag=tag,
            )
