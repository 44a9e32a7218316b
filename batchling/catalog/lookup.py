"""Questions that commands ask of the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchling.catalog import access
from batchling.catalog.plan_files import plan_folders, size_of
from batchling.catalog.rows import Answer, PlanSummary
from batchling.collect import account_refusal
from batchling.errors import CatalogDamagedError
from batchling.models import ANSWERED, Outcome

_AT_ONCE = 20_000

LEARNED_SECONDS = 30 * 86_400.0
"""A limit that a refusal named holds for so long: accounts grow, and nothing tells when one did."""


@dataclass(frozen=True, slots=True)
class Stale:
    """Where the catalog is behind: folders to refresh, and ids whose folders are gone (to forget)."""

    moved_on: tuple[Path, ...]
    gone: tuple[str, ...]


def stale(runs: Path) -> Stale:
    """Plans whose journal has another size than when the catalog saw it, and plans whose folder is gone.

    Without a usable catalog every plan is stale. Takes milliseconds for a thousand plans.
    """
    known: dict[str, int] = {}
    try:
        with access.reading(runs) as con:
            known = dict(con.execute("SELECT plan_id, coalesce(journal_bytes, -1) FROM plans").fetchall())
    except CatalogDamagedError:
        pass
    folders = plan_folders(runs)
    moved_on = tuple(f for f in folders if known.get(f.name) != size_of(f / "journal.jsonl"))
    there = {folder.name for folder in folders}
    return Stale(moved_on, tuple(sorted(plan for plan in known if plan not in there)))


def plans(runs: Path, experiment: str | None = None) -> list[PlanSummary]:
    """Every plan in the catalog, oldest first; or one experiment's.

    Raises:
        CatalogDamagedError: there is no usable catalog; `ensure` makes one.
    """
    with access.reading(runs) as con:
        found = con.execute(
            """
            SELECT p.plan_id, p.experiment, p.state, epoch(p.created_at), epoch(p.finished_at), p.runs,
              coalesce(p.requests, 0), coalesce(p.cached, 0), p.estimated_usd, p.estimated_usd_max, p.actual_usd,
              p.simulated, coalesce(r.rows, 0), coalesce(r.ok, 0), coalesce(r.not_ok, 0)
            FROM plans AS p LEFT JOIN (
              SELECT plan_id, sum(rows * repeats)::BIGINT AS rows, sum(ok)::BIGINT AS ok, sum(not_ok)::BIGINT AS not_ok
              FROM runs GROUP BY plan_id) AS r ON r.plan_id = p.plan_id
            WHERE ?::VARCHAR IS NULL OR p.experiment = ?
            ORDER BY p.created_at, p.plan_id
            """,
            [experiment, experiment],
        ).fetchall()
    return [PlanSummary(*row) for row in found]


def learned(runs: Path, *, now: float, unit: str = "tokens") -> dict[tuple[str, str], int]:
    """Limits on what may wait that refusals named in the last 30 days, by connection (a lane's group) and model; the newest counts.

    What a plan only guessed from repeated refusals stays its own business. No usable catalog: none is known.

    Args:
        now: Unix seconds.
        unit: `tokens` or `requests`.
    """
    if not access.file_of(runs).exists():
        return {}
    try:
        with access.reading(runs) as con:
            found = con.execute(
                """
                SELECT (detail->>'group'), (detail->>'model'), (detail->>'limit')::BIGINT FROM events
                WHERE kind = 'learned' AND epoch(ts) > ? AND (detail->>'group') IS NOT NULL
                  AND coalesce((detail->>'guessed'), 'false') <> 'true' AND coalesce((detail->>'unit'), 'tokens') = ?
                ORDER BY ts, plan_id, seq
                """,
                [now - LEARNED_SECONDS, unit],
            ).fetchall()
    except CatalogDamagedError:
        return {}
    return {(group, model): limit for group, model, limit in found}


def no_answer(
    outcome: str, status_code: int | None, error_code: str | None, error_message: str | None, file: str | None
) -> bool:
    """An error that says nothing of its request: the account was refused, and an older version took that for an answer.

    Neither is a line of a batch's own document, where older versions kept what a failed batch says of a line.
    """
    if outcome != Outcome.ERROR:
        return False
    if file is not None and file.endswith(".batch.json"):
        return True
    return account_refusal(status_code, [error_code] if error_code else [], error_message) is not None


def has_no_answers(runs: Path, plan_id: str) -> bool:
    """A plan has errors about the account, which an older version took for answers: they are to be asked again."""
    with access.reading(runs) as con:
        found = con.execute(
            "SELECT DISTINCT outcome, status_code, error_code, error_message FROM responses"
            " WHERE plan_id = ? AND outcome IN (?, ?)",
            [plan_id, str(Outcome.ERROR), str(Outcome.ACCOUNT)],
        ).fetchall()
    return any(
        outcome == Outcome.ACCOUNT or no_answer(outcome, status, code, message, None)
        for outcome, status, code, message in found
    )


def answered(
    runs: Path, *, provider: str, model: str, base_url: str, endpoint: str, temp: Path | None = None
) -> Iterator[Answer]:
    """The latest response of every key that was asked there, where it counts as an answer.

    A key whose latest response is expired, missing, cancelled, retryable or about the account is not given: it is to be
    asked again. Neither is one whose plan's folder is gone. Later means: of a later plan, and within one plan of a
    later shard and attempt, where an answer counts before none: a duplicate that was cancelled comes after the batch
    that was paid. No catalog, no answers.

    The catalog stays open for reading until the last answer is taken: don't write it in between.

    Args:
        base_url, endpoint: as in plan.json's lanes.
        temp: folder to spill to, for many millions of answers.
    """
    if not access.file_of(runs).exists():
        return
    there = {folder.name for folder in plan_folders(runs)}
    wanted = sorted(str(outcome) for outcome in ANSWERED)
    with access.reading(runs, temp=temp) as con:
        result = con.execute(
            """
            WITH age AS (SELECT plan_id, row_number() OVER (ORDER BY created_at, plan_id) AS age FROM plans),
            last AS (
              SELECT arg_max(r.rowid, (age.age << 41) + (list_contains(?, r.outcome)::BIGINT << 40)
                                      + (r.shard::BIGINT << 8) + least(r.attempt, 255)) AS place
              FROM responses AS r JOIN age ON age.plan_id = r.plan_id
              WHERE r.provider = ? AND r.model = ? AND r.base_url = ? AND r.endpoint = ?
                AND r.file IS NOT NULL -- a row that was dropped, or a copy that went missing, says nothing of the answer
              GROUP BY r.request_key)
            SELECT r.request_key, r.outcome, r.plan_id, r.file, r."offset", r.length, r.state,
              r.status_code, r.error_code, CASE WHEN r.outcome = 'error' THEN r.error_message END
            FROM responses AS r JOIN last ON last.place = r.rowid
            """,
            [wanted, provider, model, base_url, endpoint],
        )
        while chunk := result.fetchmany(_AT_ONCE):
            for key, outcome, plan_id, file, offset, length, state, status, code, message in chunk:
                if outcome in wanted and plan_id in there and file is not None:
                    if no_answer(outcome, status, code, message, file):
                        continue
                    yield Answer(key, outcome, plan_id, file, offset, length, state)
