"""Safeties taken out of the production code, one at a time.

A mutant replaces a piece of a module's source text and compiles the function that it is in anew, so it is the
production code with one thing missing; a piece that is no longer there is an error.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from batchling import journal
from batchling.api import pruning
from batchling.collect import failure, limit
from batchling.disk import Disk
from batchling.errors import CallAmbiguous
from batchling.ledger import State, decisions
from batchling.models import Batch, Submission
from batchling.runner import (
    adoption,
    awaiting,
    fetching,
    gathering,
    loop,
    planning,
    polling,
    reading,
    refusals,
    replanning,
    submission,
)
from batchling.runner import session as sessions
from batchling.runner.session import Session
from batchling.testing import provider as simulated
from tests.dst import harness


@dataclass(frozen=True)
class Mutant:
    """`apply` takes a safety out and returns what puts it back.

    Attributes:
        first: seeds that noticed it before, where few do: they are played before all others.
        word: what the problem that is noticed must say; where it is empty, any will do.
    """

    name: str
    apply: Callable[[], Callable[[], None]]
    worlds: tuple[str, ...] = ("bounded", "slow")
    first: tuple[int, ...] = ()
    word: str = ""


def without(owner: Any, function: str, *pieces: tuple[str, str]) -> Callable[[], Callable[[], None]]:
    """A mutant of `owner.function`: each (old, new) piece of its source replaced."""

    def apply() -> Callable[[], None]:
        original = getattr(owner, function)
        source = textwrap.dedent(inspect.getsource(original))
        for old, new in pieces:
            assert source.count(old) == 1, f"{function} has {source.count(old)} times: {old}"
            source = source.replace(old, new)
        scope = dict(original.__globals__)
        exec(compile("from __future__ import annotations\n" + source, f"<mutant of {function}>", "exec"), scope)
        mutant = scope[function]
        return replaced(owner, function, mutant)

    return apply


def replaced(owner: Any, name: str, mutant: Any) -> Callable[[], None]:
    """Puts `mutant` in place of `owner.name` everywhere that the runner looks it up."""
    original = getattr(owner, name)
    setattr(owner, name, mutant)
    performed = [do for do, perform in loop.PERFORM.items() if perform is original]
    for do in performed:
        loop.PERFORM[do] = mutant
    others = [
        m
        for m in (adoption, failure, fetching, gathering, polling, sessions, submission, replanning, loop, harness)
        if m is not owner and getattr(m, name, None) is original
    ]
    for other in others:
        setattr(other, name, mutant)

    def restore() -> None:
        for place in (owner, *others):
            setattr(place, name, original)
        for do in performed:
            loop.PERFORM[do] = original

    return restore


def _three_posts() -> Callable[[], None]:
    """What the official SDKs do by themselves."""
    once = simulated.SimClient.create

    def create(
        self: simulated.SimClient, submission: Submission, file_id: str, content: BinaryIO, window: str
    ) -> Batch:
        for _ in range(2):
            try:
                return once(self, submission, file_id, content, window)
            except CallAmbiguous:
                continue
        return once(self, submission, file_id, content, window)

    return replaced(simulated.SimClient, "create", create)


def both(
    first: Callable[[], Callable[[], None]], second: Callable[[], Callable[[], None]]
) -> Callable[[], Callable[[], None]]:
    """A mutant in two places."""

    def apply() -> Callable[[], None]:
        restores = [first(), second()]

        def restore() -> None:
            for each in restores:
                each()

        return restore

    return apply


def _no_lock_for_claims() -> Callable[[], None]:
    """`runs/lock` is taken by nobody, so two plans can be made at once."""

    @contextmanager
    def unlocked(disk: Disk, runs: Path) -> Iterator[None]:
        yield

    restores = [replaced(owner, "runs_locked", unlocked) for owner in (planning, awaiting, pruning)]

    def restore() -> None:
        for each in restores:
            each()

    return restore


MUTANTS = [
    Mutant(
        "no fence",
        without(submission, "recover", ("if not kit.client.fence(attempt.file_id):", "if False:")),
        ("slow",),
    ),
    Mutant(
        "a batch without a mark is taken for ours by its size",
        without(
            adoption,
            "_owner",
            ("if tail != session.folder.tail or shard is None", "if shard is None"),
            ("if all(entry.key != line.key for", "if all(False for"),
        ),
        ("unmarked",),
    ),
    Mutant(
        "where no batch has a mark, one that is not in the list did not happen",
        without(submission, "_why_a_person", ("if not session.kit(shard).lane.marked:", "if False:")),
        ("unmarked",),
    ),
    Mutant(
        "no settling time",
        without(decisions, "decide", ("+ settling_seconds(lane, shard, attempt, policy)", "+ 0.0")),
    ),
    Mutant(
        "the settling time is measured with the wall clock",
        without(Session, "__post_init__", ("self.clock.now() - (waited or 0.0)", "attempt.fenced_at")),
        ("clocks",),
    ),
    Mutant("the SDK repeats the create", _three_posts),
    Mutant(
        "404 means gone",
        without(
            polling,
            "poll",
            (
                "                _not_read(session, shard, attempt, look, error)\n",
                "                if missing:\n"
                '                    ended(session, shard, attempt, Batch(id=batch_id, status="failed"))\n'
                "                    continue\n"
                "                _not_read(session, shard, attempt, look, error)\n",
            ),
        ),
    ),
    Mutant(
        "a lost file after one 404",
        without(sessions, "stays", ("return n + 1 >= looks and", "return True or")),
    ),
    Mutant(
        "the batch id is recorded late",
        without(
            submission,
            "create",
            (
                '    session.settled("submit"',
                '    kit.client.file_bytes(attempt.file_id)\n    session.settled("submit"',
            ),
        ),
    ),
    Mutant(
        "no audit",
        without(
            submission,
            "audit",
            ("adopt_from_list(session, action.group)", "pass"),
        ),
        ("hostile", "gateway"),
    ),
    Mutant(
        "output file only",
        without(
            fetching,
            "collect",
            ("file_names(attempt.results)", "file_names(f for f in attempt.results if f.kind == 'output')"),
        ),
    ),
    Mutant(
        "the output of a batch that did not complete is not fetched",
        without(
            fetching,
            "collect",
            ("file_names(attempt.results)", "file_names(attempt.results if attempt.reason == 'completed' else ())"),
        ),
    ),
    Mutant(
        "downloads are not checked",
        without(fetching, "_weigh", ("    rows = shard.rows\n", "    rows = shard.rows\n    return True\n")),
    ),
    Mutant(
        "no counts mean no answers",
        without(polling, "_files_to_come", ('announced is None if batch.status != "failed" else False', "False")),
    ),
    Mutant(
        "raw files are not fsynced",
        without(fetching, "_download", ("writer.sync()", "pass")),
    ),
    Mutant(
        "the intent is not fsynced",
        without(
            journal.Journal,
            "_write",
            ("self._writer.sync()", "if b'create_intent' not in data:\n        self._writer.sync()"),
        ),
    ),
    Mutant(
        "no intent",
        without(
            submission,
            "create",
            (
                "    try:\n        with session.disk.reader",
                "    attempt.phase = Phase.CREATING\n    try:\n        with session.disk.reader",
            ),
            (
                "    session.record(CreateIntent(shard.number, attempt.number, attempt.file_id))\n",
                "",
            ),
        ),
    ),
    Mutant(
        "no second look at the list after settling",
        without(submission, "settle", ("adopt_from_list(session, kit.lane.group)", "True")),
    ),
    Mutant(
        "only the first page of the list",
        without(simulated.SimClient, "find", ("        if start:\n", "        if start:\n            return\n")),
    ),
    Mutant(
        "an ambiguous answer is taken for a refusal",
        without(
            submission, "create", ("except CallRefused as error:", "except (CallRefused, CallAmbiguous) as error:")
        ),
    ),
    Mutant(
        "a torn line stays in the journal",
        without(journal.Journal, "__init__", ("disk.truncate(path, self.good)", "pass")),
    ),
    Mutant(
        "the budget ignores what is unresolved",
        without(State, "worst", ("if attempt.may_cost:", "if attempt.may_cost and attempt.presumed:")),
    ),
    Mutant(
        "the budget forgets what was taken for absent",
        without(State, "worst", ("if attempt.may_cost:", "if attempt.phase in UNRESOLVED:")),
        ("hostile-default",),
    ),
    Mutant(
        "rows without a line are asked again whatever was announced",
        without(
            gathering,
            "ingest",
            (
                "unsure = not all(file.whole for file in attempt.files)",
                "unsure = False",
            ),
        ),
        ("bounded", "slow"),
    ),
    Mutant(
        "what is in a file that comes late is not waited for",
        without(polling, "_files_to_come", ("if stays(session, what, looks, seconds):", "if True:")),
    ),
    Mutant(
        "a line is taken for an answer, whoever it is for",
        without(
            fetching,
            "_weigh",
            (
                "if len(set().union(*named.values())) >= rows and (announced is None or answers >= min(announced, rows)):",
                "if True:",
            ),
        ),
        worlds=("liar",),
        first=(77, 51),
    ),
    Mutant(
        "counts alone vouch for a file of which nothing says how long it is",
        without(
            fetching,
            "_weigh",
            ("elif any(d.stated is None for d in got.values()):", "elif False:"),
            ('if d.stated == d.bytes or stays(session, f"{d.file_id} {d.sha256}", SAME_LOOKS, 0.0):', "if True:"),
        ),
        worlds=("liar",),
        first=(331, 448),
    ),
    Mutant(
        "a batch that stopped is believed at once that it answered nothing",
        without(polling, "_files_to_come", ('batch.status in ("expired", "cancelled") and not (', "False and not (")),
        worlds=("lying-batch",),
        first=(195, 594),
    ),
    Mutant(
        "a second batch with our file id is a duplicate, whatever its marks say",
        without(adoption, "_take", ("_is_anothers(session, shard, batch, other)", "False")),
        worlds=("same-ids",),
        first=(77,),
    ),
    Mutant(
        "another plan's metadata is taken for ours",
        without(
            adoption,
            "adopt_from_list",
            ("mine = own(row, session, group)", "mine = own(row, session, group) or (1, 1)"),
        ),
    ),
    Mutant(
        "answered rows are asked again",
        without(reading, "retriable", ('return document["outcome"] in RETRIED', "return True")),
    ),
    Mutant(
        "a row of the list ends a batch",
        without(
            polling,
            "_hint",
            (
                "    look = session.looks[batch_id]\n",
                "    if row.terminal:\n        ended(session, *out.pop(batch_id), row)\n        return True\n"
                "    look = session.looks[batch_id]\n",
            ),
        ),
        ("lying-list",),
    ),
    Mutant(
        "an alias is cancelled as a duplicate",
        without(
            adoption,
            "_take",
            ("if batch.id == known.batch_id:", "if False:"),
            ("relation(batch, batch_id, other, known.batch_id) is Relation.ALIAS", "False"),
        ),
        ("lying-list",),
    ),
    Mutant(
        "a row is adopted without a GET of it",
        without(
            adoption,
            "_take",
            ("        batch = _get(session, group, batch_id)\n", "        batch = Batch(batch_id, 'validating')\n"),
        ),
        ("lying-list",),
    ),
    Mutant(
        "fewer answers than announced are taken at once",
        without(fetching, "_weigh", ("elif not lost and announced is not None and not enough:", "elif False:")),
        ("lying-batch", "bounded"),
    ),
    Mutant(
        "an event is appended before it is checked",
        without(
            sessions,
            "write",
            (
                "        check(state, event_of(journal.line(said, ts=ts)))\n        for line in journal.append([said], ts=ts):\n",
                "        for line in journal.append([said], ts=ts):\n            check(state, event_of(line))\n",
            ),
        ),
    ),
    Mutant("claims are not taken under the lock", _no_lock_for_claims, ("plans",)),
    Mutant(
        "a plan does not see what another one is buying",
        without(planning, "known_keys", ("claimed=claims,", "claimed={},")),
        ("plans",),
    ),
    Mutant(
        "a plan that waits buys anyway",
        both(
            without(awaiting, "take_over", ("and _is_buying(session.disk, other)", "and False")),
            without(
                awaiting,
                "_settle",
                ("if not session.state.cancel_requested:", "if False:"),
            ),
        ),
        ("plans",),
        first=(68,),
        word="billed twice",
    ),
    Mutant(
        "an account's refusal in a row is cached as an answer",
        without(
            sys.modules["batchling.providers.openai.decode"],
            "outcome_of_error",
            ("        return Outcome.ACCOUNT\n", "        return Outcome.ERROR\n"),
        ),
        ("accounts",),
    ),
    Mutant(
        "a limit of 30 is read in 30K, and believed",
        both(
            without(
                limit,
                "limit_of",
                (
                    "    for limit in limits_in(text):\n",
                    "    if found := re.search(r'Limit: ([0-9]+)', text):\n        return int(found[1])\n"
                    "    for limit in limits_in(text):\n",
                ),
            ),
            without(refusals, "learned", ("if failure.limit < believable:", "if False:")),
        ),
        ("limits",),
    ),
]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """The production code without this safety."""
    restore = mutant.apply()
    try:
        yield
    finally:
        restore()
