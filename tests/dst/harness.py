"""One seed = one world = one schedule of kills, faults and late requests over the production code.

`run_schedule` plays a plan's whole life: it makes the shards, drives them with `runner.loop.drive`, starts a
new process after every kill, and plays the person where one is needed (a parked submission, a budget that is
used up, a full disk). The provider's side is the ground truth: what was run, answered and billed.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchling import cost
from batchling.errors import DiskError, ProviderError, UnfinishedError, UsageError
from batchling.journal import Journal, decode, parse, read
from batchling.ledger import UNSENT, Event, InvariantError, Lane, Pace, Phase, Policy, State, line_of, replay
from batchling.ledger.events import CancelRequested, Ended, PlanCreated, Planned, SessionStarted
from batchling.models import ANSWERED, Batch, Outcome, Price, Submission
from batchling.packing import ShardLimits
from batchling.providers.openai import ADAPTER
from batchling.request import repair, repair_key
from batchling.runner import loop, resolving
from batchling.runner.folder import PlanFolder
from batchling.runner.session import LaneKit, Session
from batchling.runner.shards import LaneShape, ShardWriter
from batchling.testing import Chaos, Faults, Killed, Lie, Overrun, SimClient, SimClock, SimDisk, SimServer, SimTime
from batchling.testing.lies import BATCH, FILE, FOR_A_TIME, LAPSES, ROW
from batchling.testing.server import SPELLINGS

SETTLE = 900.0
TOKENS = 10
WORST_OUTPUT_TOKENS = 5
MAX_PROCESSES = 150


@dataclass(frozen=True)
class World:
    """What may go wrong, and what is promised all the same.

    Attributes:
        lag: a batch appears in the list up to so many seconds after it was made.
        late: a request may arrive up to so many seconds after the client gave up.
        resubmit_usd: what the policy allows to be sent again unasked.
        fence: some providers do not delete input files; those that do, do so for certain.
        marks: a batch says whose it is; else only its results do, and nothing can be called back.
        once: no key is billed twice.
        twice_by_gateway: one request may be sent on twice, by somebody between us and the provider.
        wrong_clocks: each process's clock is wrong in its own way, and replies are often lost.
        lanes: how many lanes (provider, endpoint and model) a plan has; a sweep over models and providers has many.
        tokens: prompt tokens of a message. Limits are written as providers write them where these are thousands.
        accounts: rows of a batch may be refused because of the account, which a person then puts right.
        lies: what is said that is not so: in the `list`, of a `batch` and its files, or by `forget`ting them.
    """

    name: str
    lag: float
    late: float
    resubmit_usd: Decimal = Decimal(100)
    fence: bool = True
    marks: bool = True
    once: bool = True
    twice_by_gateway: float = 0.0
    wrong_clocks: bool = False
    lanes: tuple[int, ...] = (1, 1, 2)
    lies: tuple[str, ...] = ()
    tokens: int = TOKENS
    accounts: bool = False


WORLDS = {
    world.name: world
    for world in (
        World("bounded", lag=800.0, late=800.0),
        World("slow", lag=800.0, late=20 * 3600.0),
        World("hostile", lag=6 * 3600.0, late=20 * 3600.0, resubmit_usd=Decimal(0)),
        World("hostile-default", lag=6 * 3600.0, late=20 * 3600.0, once=False),
        World("unfenced", lag=800.0, late=20 * 3600.0, once=False, fence=False),
        World("unmarked", lag=800.0, late=20 * 3600.0, fence=False, marks=False),
        World("clocks", lag=800.0, late=800.0, wrong_clocks=True),
        World("sweep", lag=800.0, late=20 * 3600.0, lanes=(3, 4, 6)),
        World("gateway", lag=800.0, late=800.0, once=False, twice_by_gateway=0.3),
        World("lying-list", lag=800.0, late=20 * 3600.0, lanes=(1, 2, 3), lies=("list",)),
        World("lying-batch", lag=800.0, late=20 * 3600.0, lies=("batch", "file")),
        World("liar", lag=800.0, late=20 * 3600.0, lanes=(1, 2, 3), lies=("list", "batch", "file")),
        World("forgetful", lag=800.0, late=20 * 3600.0, resubmit_usd=Decimal(0), lies=("forget",)),
        World("limits", lag=800.0, late=800.0, tokens=10_000),
        World("accounts", lag=800.0, late=800.0, accounts=True),
        World("same-ids", lag=800.0, late=800.0, lies=("ids",)),
    )
}


@dataclass
class Result:
    """What came of one schedule. `problems` is empty when every promise held."""

    world: str
    seed: int
    rows: int = 0
    requests: int = 0
    twice: int = 0
    twice_usd: Decimal = Decimal(0)
    spent_usd: Decimal = Decimal(0)
    kills: int = 0
    processes: int = 0
    steps: int = 0
    parked: int = 0
    presumed: set[int] = field(default_factory=set)
    ended: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    trace: str = ""


class Schema:
    """Stands for a compiled output schema."""

    def judge(self, text: str) -> tuple[Any, str | None, str | None]:
        try:
            value = json.loads(text)
        except ValueError:
            return None, "not JSON", None
        return (value, None, None) if "n" in value else (None, "n is missing", None)


class Broken(Exception):
    """A promise was broken."""


class Witness(SimClient):
    """A connection that checks what must be on disk before a call may leave."""

    owed: str | None = None

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        batch = super().create(submission, file_id, content, window)
        self.owed = batch.id
        return batch


def draw_faults(rng: random.Random, world: World) -> Faults:
    """Some faults, from rare to often; a schedule in which everything fails at once says little."""

    def rate(*rates: float) -> float:
        return rng.choice(rates) if rng.random() < 0.4 else 0.0

    sizes = rng.random() < 0.7
    counts = not sizes or rng.random() < 0.5
    return Faults(
        upload_lost=rate(0.1, 0.4),
        upload_unheard=rate(0.1, 0.4),
        upload_refused=rate(0.1, 0.3),
        create_lost=rate(0.1, 0.4),
        create_unheard=rate(0.1, 0.4, 0.7),
        create_late=rate(0.1, 0.4, 0.7),
        late_seconds=world.late,
        create_refused=rate(0.1, 0.3),
        create_fatal=rate(0.05),
        create_twice=world.twice_by_gateway,
        list_lag_seconds=rng.choice((0.0, 5.0, world.lag, world.lag)),
        list_down=rate(0.1, 0.4),
        read_down=rate(0.1, 0.4),
        not_found=rate(0.05, 0.2),
        download_cut=rate(0.2, 0.5),
        file_short=rate(0.05, 0.2),
        file_gone=rate(0.05, 0.2),
        sizes=sizes,
        counts=counts,
        files_late_seconds=rate(300.0),
        fence_lost=rate(0.2, 0.5),
        fence_unheard=rate(0.2, 0.5),
        cancel_lost=rate(0.2, 0.5),
        enqueued_tokens=rng.choice((4, 6, 10, 20)) * world.tokens if rng.random() < 0.3 else None,
        limit_at_once=rng.random() < 0.3,
        batch_expired=rate(0.1, 0.4),
        batch_failed=rate(0.1, 0.3),
        batch_cancelled=rate(0.1),
        bad_lines=rate(0.1, 0.3),
        all_errors=rate(0.1, 0.3),
        row_retryable=rate(0.1, 0.3),
        row_error=rate(0.1, 0.3),
        row_missing=rate(0.1, 0.3),
        row_account=rate(0.2, 0.5) if world.accounts else 0.0,
        row_invalid=rate(0.1, 0.4),
        row_refused=rate(0.1),
        row_truncated=rate(0.1),
        row_filtered=rate(0.1),
        line_twice=rate(0.1, 0.5),
        line_foreign=rate(0.1, 0.5),
        others=rate(0.3, 0.8),
        run_seconds=rng.choice(((40.0, 200.0), (60.0, 3600.0), (3600.0, 14_000.0))),
        window_seconds=15_000.0,
    )


UNMEASURED = {"file: size not known", "file: size cannot be read"}


def draw_lies(rng: random.Random, world: World, faults: Faults) -> tuple[Lie, ...]:
    """A few lies, each told of some batches or of all, for minutes, hours or ever."""
    lies: list[Lie] = []
    for kind in world.lies:
        names = {
            "list": [*ROW, "row: twice"],
            "batch": list(BATCH),
            "file": list(FILE),
            "forget": list(LAPSES),
        }.get(kind)
        if names is None:
            continue
        for what in rng.sample(names, rng.randint(1, 3)):
            seconds = rng.choice((60.0, 1_500.0, 6 * 3600.0, math.inf, math.inf))
            if what in FOR_A_TIME or what == "forgets a file":  # less than the time that a download is waited for
                seconds = rng.choice((60.0, 600.0, 1_500.0))
            elif kind == "forget":
                seconds = rng.choice((600.0, 3_600.0, 6 * 3600.0, 30 * 3600.0))
            lies.append(Lie(what, rng.choice((0.3, 0.7, 1.0)), seconds))
    told = {lie.what for lie in lies}
    if "file: fills late" in told:
        # Where nothing says how much there is to come, what has not come yet looks like what was never answered.
        if not faults.counts:
            lies = [lie for lie in lies if lie.what != "file: fills late"]
        else:
            lies = [lie for lie in lies if lie.what not in HIDE_COUNTS]
    if "batch: final status in another word" in told:
        lies = [lie for lie in lies if lie.what not in HIDE_COUNTS]  # only full counts say that such a word is final
    if not (faults.counts and faults.sizes) or told & HIDE_COUNTS:
        # The same for a download that is cut between two lines, where nothing says how long it is.
        lies = [lie for lie in lies if lie.what not in UNMEASURED or not faults.download_cut]
    if faults.files_late_seconds:
        # An id that is false for ever in place of one that is named later cannot be told from it.
        lies = [lie for lie in lies if lie.what != "batch: an error file that is not there"]
    if told & {"batch: no file", "batch: somebody else's file"}:
        lies = [lie for lie in lies if "metadata" not in lie.what]
    if told & {"row: no file", "row: somebody else's file", "row: every id is an alias"}:
        lies = [lie for lie in lies if lie.what not in ("batch: no metadata", "batch: somebody else's metadata")]
    return tuple(lies)


HIDE_COUNTS = {
    "batch: no counts",
    "batch: counts of zero",
    "batch: nothing completed",
    "batch: fewer completed than there are",
}


class Schedule:
    """A plan's life under one seed."""

    def __init__(
        self,
        world: World,
        seed: int,
        *,
        faults: Faults | None = None,
        kill_at: tuple[int, ...] | None = None,
        keep_trace: bool = False,
    ):
        self.world = world
        self.seed = seed
        name = f"{world.name}:{seed}"
        rng = self.rng = random.Random(name)
        self.result = Result(world.name, seed)
        self.chaos = Chaos(
            name,
            kill_rate=0.0 if kill_at is not None else rng.choice((0.0, 0.01, 0.03, 0.1)),
            max_kills=rng.randint(1, 6),
            kill_at=kill_at or (),
            # Where every second page of a list fails, the long lists of many lanes take many tries to be read once.
            max_steps=60_000 * max(world.lanes),
        )
        if keep_trace:
            self.chaos.trace = []
        self.time = SimTime()
        self.disk = SimDisk(self.chaos, fsync_fails=rng.choice((0.0, 0.0, 0.002, 0.01)) if faults is None else 0.0)
        self.folder = PlanFolder(Path("/runs/20261123-000000-sim-5eed00"))
        own_faults = faults is not None
        self.faults = faults or draw_faults(rng, world)
        groups = ["a"] if rng.random() < 0.6 else ["a", "b"]
        if world.tokens != TOKENS and self.faults.enqueued_tokens is None:
            self.faults = replace(self.faults, enqueued_tokens=rng.choice((4, 6, 10)) * world.tokens)
        if world.wrong_clocks:
            self.faults = replace(self.faults, create_unheard=0.5, list_lag_seconds=world.lag, list_down=0.0)
            self.chaos.kill_rate, self.chaos.sleep_weight, self.chaos.max_kills = 0.01, 60.0, 4
        self.servers = {
            group: SimServer(
                self.time,
                f"{name}/{group}",
                self.faults,
                tokens=lambda body: world.tokens * len(body["messages"]),
                spelling=rng.choice(tuple(SPELLINGS)) if world.tokens >= 1000 else "1,000",
                least_tokens=world.tokens,
            )
            for group in groups
        }
        for server in self.servers.values():
            server.marks = world.marks
        if world.lies:
            for server in self.servers.values():
                server.lies = draw_lies(rng, world, self.faults)
                if "list" in world.lies and rng.random() < 0.05:
                    server.strangers = 2_000
                if "ids" in world.lies:
                    # Where a name comes back, a request that is late means another file: that is not promised.
                    self.faults = server.faults = replace(self.faults, create_late=0.0)
                    server.ids = rng.choice(("content", "counter"))
        self.parsed: tuple[bytes, list[dict[str, Any]]] = (b"", [])
        scale = rng.choice((1.0, 1.0, 8.0)) * TOKENS / world.tokens
        self.price = Price(1000.0 * scale, 10_000.0 * scale * world.tokens / TOKENS)
        self.attempts = rng.randint(1, 3)
        repairs = rng.random() < 0.6
        lanes = rng.choice(world.lanes)
        self.shapes: dict[int, LaneShape] = {}
        self.lanes: list[Lane] = []
        self.rows: list[tuple[int, str, bytes]] = []
        tokens_known = rng.random() < 0.85
        can_list = own_faults or rng.random() < 0.95
        # Without a deletion a request may arrive after any wait: up to 1 USD is assumed absent all the same, and may be
        # paid twice where requests are late by more than it settles. The world `unfenced` shows how much that is.
        can_fence = own_faults or rng.random() < 0.92
        if world.late > SETTLE and world.resubmit_usd and world.fence:
            can_fence = True
        if not world.fence:
            can_fence = False
        elif not can_fence and world.resubmit_usd and not own_faults:
            # Nor is it promised where a request that is late and a list that lags take longer together than it settles.
            late = min(self.faults.late_seconds, SETTLE - world.lag - 50.0)
            self.faults = replace(self.faults, late_seconds=late)
            for server in self.servers.values():
                server.faults = replace(server.faults, late_seconds=late)
        for number in range(lanes):
            limits = ShardLimits(max_requests=rng.randint(1, 6), max_line_bytes=rng.choice((None, 400)))
            self.shapes[number] = LaneShape(
                number=number,
                path="/v1/chat/completions",
                limits=limits,
                encode=ADAPTER.envelope.encode,
                worst=self.worst,
            )
            self.lanes.append(
                Lane(
                    number=number,
                    group=groups[number % len(groups)],
                    model=f"sim-{number if rng.random() < 0.5 else 0}",
                    settle_seconds=SETTLE,
                    can_list=can_list,
                    can_fence=can_fence,
                    marked=world.marks,
                    concurrent_batches=rng.choice((None, None, 1, 2)),
                    creations_per_hour=rng.choice((None, None, None, 3)),
                )
            )
            for row in range(rng.randint(1, 10)):
                key = "k1-" + hashlib.sha256(f"{number}/{row}".encode()).hexdigest()[:40]
                body = b'{"model":"sim","messages":[{"role":"user","content":"row %d"}]}' % row
                self.rows.append((number, key, body))
        self.tokens = world.tokens if tokens_known else None
        self.repair = repair if repairs else None
        all_worst = sum(
            (self.worst(sum(1 for n, _, _ in self.rows if n == number), None) or Decimal(0) for number in range(lanes)),
            Decimal(0),
        )
        self.budget: Decimal | None = None
        if rng.random() < 0.5 and not own_faults:
            self.budget = all_worst * Decimal(rng.choice(("0.3", "0.7", "1", "1.2", "3")))
        self.resubmit_usd = world.resubmit_usd
        self.cancel_at = rng.randint(1, 3) if rng.random() < 0.15 and not own_faults else 0
        self.detach = rng.random() < 0.3
        self.poll_seconds = rng.choice((30.0, 300.0, 900.0))
        self.machine = rng.choice(("m", "m", None))
        self.saw_end = False
        self.calm = False
        self.refusals = 0
        self.blunders: set[str] = set()

    def worst(self, requests: int, tokens: int | None) -> Decimal | None:
        # Where tokens are not counted the price is taken for more tokens than any request of this world has.
        counted = requests * 6 * self.world.tokens if tokens is None else tokens
        return cost.usd(self.price, counted, requests * WORST_OUTPUT_TOKENS)

    # The plan's life.

    def run(self) -> Result:
        result = self.result
        try:
            self._live()
        except Overrun as error:
            result.problems.append(f"neither finished nor parked: {error}")
        except (Broken, InvariantError) as error:
            result.problems.append(f"{type(error).__name__}: {error}")
        except Exception as error:  # any other crash of the production code is a finding too
            result.problems.append(f"crash {type(error).__name__}: {error}")
            raise_from = getattr(self, "reraise", False)
            if raise_from:
                raise
        result.rows = len(self.rows)
        result.requests = sum(len(b.requests) for s in self.servers.values() for b in s.batches.values() if b.ours)
        result.kills = self.chaos.kills
        result.steps = self.chaos.steps
        result.faults = self.chaos.faults
        result.trace = self.chaos.digest
        return result

    def _live(self) -> None:
        ended = ""
        for number in range(MAX_PROCESSES):
            self.result.processes += 1
            if number > 60:
                self._calm_down()
            try:
                ended = self._process(number)
            except Killed:
                ended = "killed"
            except DiskError:
                # The program stopped and said why. The person makes room; the disk is what it is.
                ended = "disk"
                self.disk.capacity = None
            self._check_spend()
            power_loss = ended == "killed" and self.rng.random() < 0.5
            self.disk.next_process(power_loss=power_loss)
            if power_loss and self.machine is not None:
                self.machine += "+"
            if ended == "finished":
                break
            self.time.pass_by(self.rng.choice((1.0, 60.0, 3600.0, 2 * 86_400.0)))
            if self.faults is not None and not self.calm and self.rng.random() < 0.03:
                self.disk.capacity = sum(len(i.seen) for i in self.disk.seen.values()) + self.rng.randrange(3000)
            if ended == "budget" and self.budget is not None:
                if self.rng.random() < 0.5:
                    self.budget *= 2
                else:
                    self.cancel_at = number + 1
            if ended == "refused":
                self.refusals += 1
                if self.refusals > 3:
                    self._calm_down()
                if self.refusals > 6:
                    self.cancel_at = number + 1
        self.result.ended = ended
        # From the journal: a kill between writing an event and telling of it leaves no other trace.
        presumed = (
            e for e in read(self.disk, self.folder.journal) if e["kind"] == "absent" and e.get("by") != "person"
        )
        self.result.presumed = {event["shard"] for event in presumed}
        if ended != "finished":
            raise Broken(f"neither finished nor parked after {MAX_PROCESSES} processes: {ended}")
        self._check_end()

    def _calm_down(self) -> None:
        """From here on nothing fails, so that every schedule can end."""
        if not self.calm:
            self.calm = True
            self.disk.fsync_fails = 0.0
            self.chaos.max_kills = self.chaos.kills
            for server in self.servers.values():
                server.faults = replace(
                    Faults(run_seconds=(60.0, 600.0)),
                    list_lag_seconds=server.faults.list_lag_seconds,
                    enqueued_tokens=server.faults.enqueued_tokens,
                )

    def _process(self, number: int) -> str:
        chaos, disk, folder = self.chaos, self.disk, self.folder
        chaos.revive()
        right = () if self.world.wrong_clocks else (0.0, 0.0)
        wrong = self.rng.choice((*right, 0.0, -3000.0, 5000.0))
        clock = SimClock(self.time, chaos, offset=wrong, machine=self.machine)
        lock = disk.lock(folder.lock)
        journal = Journal(disk, folder.journal)
        if not any(event["kind"] == "planned" for event in journal.events):
            self._plan(journal, clock)
        state = replay(journal.events)
        self._check_state(state)
        providers = {}
        for group, server in self.servers.items():
            providers[group] = Witness(server, chaos, watch=lambda name, what, g=group: self._watch(g, name, what))
        self.connections = providers
        kits = tuple(
            LaneKit(
                lane=lane,
                shape=self.shapes[lane.number],
                client=providers[lane.group],
                envelope=ADAPTER.envelope,
                schemas={0: Schema()},  # type: ignore[dict-item]
                price=self.price,
                window="24h",
                poll_seconds=self.poll_seconds,
                repair=self.repair,
                repair_key=repair_key,
            )
            for lane in self.lanes
        )
        session = Session(
            disk=disk,
            clock=clock,
            folder=folder,
            journal=journal,
            state=state,
            policy=Policy(tuple(self.lanes), budget_usd=self.budget, resubmit_usd=self.resubmit_usd),
            kits=kits,
            attempts=self.attempts,
            rng=random.Random(f"{self.world.name}:{self.seed}:{number}"),
            observer=self,
            pace=Pace(),
        )
        session.record(SessionStarted({}))
        if self.cancel_at and number >= self.cancel_at and not state.cancel_requested:
            session.record(CancelRequested())
        if self.rng.random() < 0.1:
            self._impossible(session)
        detach = self.detach and self.rng.random() < 0.5
        ended = loop.drive(session, detach=detach)
        if ended == "parked":
            self.result.parked += 1
            self._decide_parked(session)
        if ended == "refused" and not session.state.fatal:
            self._check_refused(session)
        if ended == "finished" and self.saw_end:
            self._check_finished(session)
        journal.close()
        lock.release()
        return ended

    def _impossible(self, session: Session) -> None:
        """An event that may not follow is refused, and leaves no trace."""
        for shard, attempt in session.state.attempts():
            if attempt.phase in UNSENT:
                try:
                    session.record(Ended(shard.number, attempt.number, "completed"))
                except InvariantError:
                    return
                raise Broken("an event that may not follow was taken")

    def _plan(self, journal: Journal, clock: SimClock) -> None:
        writer = ShardWriter(self.disk, self.folder, self.shapes, first=1, row_attempt=1, kind="first")
        for lane, key, body in self.rows:
            writer.add(lane, key, body, self.tokens)
        shards = writer.finish()
        events: list[Event] = [] if journal.events else [PlanCreated()]
        journal.append(map(line_of, [*events, Planned(tuple(shards))]), ts=clock.now())

    def _decide_parked(self, session: Session) -> None:
        """The person looks at the provider's dashboard, which is the truth, and decides."""
        for shard, attempt in resolving.parked(session):
            server = self.servers[self.lanes[shard.lane].group]
            while server.on_its_way:
                self.time.pass_by(3600.0)
                server.catch_up()
            known = {self._real(batch_id) for batch_id in session.state.batches}
            made = [b for b in server.batches.values() if b.file_id == attempt.file_id and b.id not in known]
            listed = self.lanes[shard.lane].can_list
            try:
                if attempt.phase is not Phase.PARKED:
                    continue
                if made and listed and self.world.lag > SETTLE and self.rng.random() < 0.3:
                    # A person who looks too early gives up what did happen: the audit must find it later.
                    self.blunders.add(made[0].id)
                    resolving.drop(session, shard.number)
                elif made:
                    resolving.adopt(session, shard.number, made[0].id)
                elif session.state.cancel_requested or self.rng.random() < 0.2:
                    resolving.drop(session, shard.number)
                else:
                    resolving.resubmit(session, shard.number)
            except (UnfinishedError, UsageError) as error:
                self.chaos.note(f"resolve: {error.message}")

    # The observer's side of a session: everything is looked at after every event.

    def event(self, session: Session, event: dict[str, Any]) -> None:
        self.chaos.note(f"{event['seq']} {event['ts']} {event['kind']}")
        state = session.state
        total = sum(state.counts().values())
        if total != len(self.rows):
            raise Broken(f"I6: {len(self.rows)} rows, states add up to {total} after {event}")
        if event["kind"] == "create_intent" and self.budget is not None and state.worst() > self.budget:
            raise Broken(f"I5: worst case {state.worst()} above the budget {self.budget}")
        self.saw_end = event["kind"] == "finished"
        if event["kind"] == "learned" and not event.get("guessed") and event.get("unit", "tokens") == "tokens":
            limit = self.servers[event["group"]].faults.enqueued_tokens
            if limit is None or event["limit"] < limit:
                raise Broken(f"a limit of {event['limit']:,} tokens is believed, and the provider's is {limit}")

    def polled(self, session: Session) -> None: ...

    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None: ...

    def _watch(self, group: str, name: str, subject: str) -> None:
        """What must be certain before a call leaves."""
        events = self._durable_events()
        if name == "create":
            intents = [e for e in events if e["kind"] in ("create_intent", "rejected", "created")]
            if not intents or not any(e["kind"] == "create_intent" and e["file_id"] == subject for e in intents):
                raise Broken(f"I2: a create with {subject} left before its intent was on disk")
            if subject in self.servers[group].deleted:
                raise Broken(f"I4: fenced file {subject} is used again")
        if name == "cancel":
            self._check_cancel(events, self._real(subject))
        witness = self.connections[group]
        if witness.owed is not None:
            if not any(e["kind"] == "created" and e["batch_id"] == witness.owed for e in events):
                raise Broken(f"batch {witness.owed} was not recorded before {name}")
            witness.owed = None

    def _durable_events(self) -> list[dict[str, Any]]:
        """What of the journal survives a power loss now; only what is new of it is parsed."""
        data = self.disk.survivors(self.folder.journal)
        before, events = self.parsed
        if data != before:
            grown = before.endswith(b"\n") and data.startswith(before)
            if grown:
                lines = map(decode, data[len(before) :].splitlines())
                self.parsed = (data, events + [event for event in lines if event is not None])
            else:
                self.parsed = (data, parse(data, where="journal")[0])
        return self.parsed[1]

    def _check_cancel(self, events: list[dict[str, Any]], batch_id: str) -> None:
        """Only what a person gave up, and a second batch of one submission, may be cancelled."""
        state = replay(events)
        if state.cancel_requested:
            return
        for shard, attempt in state.attempts():
            if self._real(attempt.batch_id or "") == batch_id and not shard.unwanted and not shard.replanned:
                others = [a for a in shard.attempts if a is not attempt and a.batch_id is not None]
                if not any(self._real(a.batch_id or "") != batch_id for a in others):
                    raise Broken(f"lost: {batch_id} is cancelled, the only batch of shard {shard.number}")

    # What must hold.

    def _check_state(self, state: State) -> None:
        known: set[str] = set()
        for _, attempt in state.attempts():
            if attempt.batch_id is not None:
                batch_id = self._real(attempt.batch_id)
                if batch_id in known:
                    raise Broken(f"batch {batch_id} is in the journal twice")
                known.add(batch_id)

    def _real(self, batch_id: str) -> str:
        """The batch that an id names, whatever alias it is."""
        return next(iter(self.servers.values())).real(batch_id)

    def _billed(self) -> dict[str, list[Any]]:
        billed: dict[str, list[Any]] = {}
        for server in self.servers.values():
            server.catch_up()
            for run in server.runs:
                if run.billed:
                    billed.setdefault(run.key, []).append(run)
        return billed

    def _usd(self, run: Any) -> Decimal:
        return cost.usd(self.price, run.input_tokens, run.output_tokens)

    def _check_spend(self) -> None:
        billed = self._billed()
        spent = sum((self._usd(run) for runs in billed.values() for run in runs), Decimal(0))
        self.result.spent_usd = spent
        if self.budget is not None and spent > self.budget and not self.world.twice_by_gateway:
            raise Broken(f"spent {spent} of a budget of {self.budget}")
        twice = {key: runs for key, runs in billed.items() if len(runs) > 1}
        self.result.twice = len(twice)
        self.result.twice_usd = sum((self._usd(r) for runs in twice.values() for r in runs[1:]), Decimal(0))
        if twice and self.world.once:
            key, runs = next(iter(twice.items()))
            raise Broken(f"{len(twice)} keys billed twice: {key} in {', '.join(r.batch_id for r in runs)}")

    def _check_refused(self, session: Session) -> None:
        """A request that fits into the provider's limit is not given up for it."""
        for shard in session.state.shards.values():
            limit = self.servers[self.lanes[shard.lane].group].faults.enqueued_tokens
            fits = shard.input_tokens is not None and limit is not None and shard.input_tokens <= limit
            if shard.unsent is not None and fits:
                raise Broken(f"neither sent nor parked: shard {shard.number} would fit into the limit of {limit:,}")

    def _check_finished(self, session: Session) -> None:
        """I3 at the moment of the last look at each provider: what the list showed of ours is in the journal."""
        known = {self._real(batch_id) for batch_id in session.state.batches}
        for lane in self.lanes:
            server = self.servers[lane.group]
            # The looks at several providers follow each other, with pauses where a list fails.
            ago = session.clock.now() - session.pace.audits.get(lane.group, session.clock.now())
            for batch in server.batches.values():
                late = batch.visible_at > self.time.now - ago - 120.0
                if batch.ours and batch.id not in known and lane.can_list and not late and not server.unshown(batch):
                    raise Broken(f"I3: finished, and batch {batch.id} of ours is not in the journal")

    def _check_end(self) -> None:
        events = read(self.disk, self.folder.journal)
        state = replay(events)
        self._check_state(state)
        # Requests that are still on their way may arrive; they must not be billed.
        for server in self.servers.values():
            while server.on_its_way or any(b.ours and not b.over for b in server.batches.values()):
                self.time.pass_by(3600.0)
                server.catch_up()
        self._check_spend()
        truth = {(r.batch_id, r.key): r for s in self.servers.values() for r in s.runs}
        answers: dict[str, list[dict[str, Any]]] = {}
        for shard, attempt in state.attempts():
            if attempt.phase is not Phase.CLOSED:
                continue
            for text in self.disk.read(self.folder.decoded(shard.number, attempt.number)).split(b"\n"):
                if not text:
                    continue
                document = orjson.loads(text)
                self._check_document(
                    document,
                    truth.get((self._real(attempt.batch_id or ""), document["key"])),
                    self._unsure(state, self._real(attempt.batch_id or "")),
                )
                answers.setdefault(document["parent_key"] or document["key"], []).append(document)
        # A paid answer is never dropped.
        known = {self._real(a.batch_id) for _, a in state.attempts() if a.batch_id}
        for key, runs in self._billed().items():
            for run in runs:
                if run.batch_id in known:
                    found = [d for family in answers.values() for d in family if d["key"] == key]
                    if not any(d["text"] == run.text for d in found) and not self._unsure(state, run.batch_id):
                        raise Broken(f"the paid answer to {key} in {run.batch_id} is lost")
                elif self.world.once and run.batch_id not in self.blunders:
                    raise Broken(f"{run.batch_id} was billed and is not in the journal")
        # Every row has exactly one state, and the journal's counts say the same.
        records: Counter[str] = Counter()
        dropped = 0
        for _, key, _ in self.rows:
            family = answers.get(key, [])
            if not family:
                dropped += 1
                continue
            answered = [d for d in family if d["outcome"] in ANSWERED]
            records[(answered or family)[-1]["state"]] += 1
        total = sum(records.values()) + dropped
        if total != len(self.rows):
            raise Broken(f"{len(self.rows)} rows, {total} records")
        if dropped and not state.cancel_requested and not any(a.phase is Phase.DROPPED for _, a in state.attempts()):
            raise Broken(f"{dropped} rows are lost")
        if any(a.phase in UNSENT for _, a in state.attempts()):
            raise Broken("finished, and a shard was never sent")

    def _unsure(self, state: State, batch_id: str) -> bool:
        """The provider has billed answers of this batch that it does not give, and the journal knows of it."""
        damaged = {file_id for server in self.servers.values() for file_id in server.damaged}
        return any(
            self._real(a.batch_id or "") == batch_id and a.unsure and self._real(file.id) in damaged
            for _, a in state.attempts()
            for file in a.results
        )

    def _check_document(self, document: dict[str, Any], run: Any, unsure: bool) -> None:
        """The row's state is what the provider did with it."""
        outcome = Outcome(document["outcome"])
        if run is None:
            if outcome in ANSWERED or outcome is Outcome.RETRYABLE:
                raise Broken(f"{document['key']} is {outcome}, and the provider never ran it")
            return
        lost = outcome in (Outcome.MISSING, Outcome.EXPIRED, Outcome.CANCELLED)
        if lost and (unsure or (not run.billed and not self.faults.sizes)):
            return  # its line is in the part of a file that did not arrive
        if outcome is not run.outcome:
            raise Broken(f"{document['key']} is {outcome}, and the provider says {run.outcome}")
        if outcome is Outcome.OK and document["text"] != run.text:
            raise Broken(f"{document['key']} has the answer of another request")


def run_schedule(world: str, seed: int, **options: Any) -> Result:
    """Plays one schedule."""
    return Schedule(WORLDS[world], seed, **options).run()


__all__ = ["WORLDS", "ProviderError", "Result", "Schedule", "World", "run_schedule"]
