"""The Python API for experiments that are configs: the same engine as the command line.

>>> import batchling
>>> batchling.plan("hello").requests                                       # doctest: +SKIP
2
>>> results = batchling.run("intent", overrides=["data.limit=100"])        # doctest: +SKIP
>>> results.exit_code, results.metrics["accuracy"].value, results.df()     # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.project import Confirm, Project
from batchling.results import Results

if TYPE_CHECKING:
    from batchling.api.outcome import Outcome, PlanReport, PlanStatus
    from batchling.catalog import QueryResult
    from batchling.runner.session import Observer


def plan(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    sweep: Mapping[str, Any] | None = None,
    show: int = 0,
    fresh: bool = False,
    retry: Sequence[str] = (),
    project: Path | str | None = None,
    config_dir: Path | str | None = None,
) -> PlanReport:
    """What a run would send and cost. Sends nothing, leaves nothing in the project.

    Args:
        experiment: a folder with a config.yaml, a .yaml file, or a name in `experiments/`.
        overrides: in Hydra's grammar, `model=a,b` sweeps.
        sweep: `{"grid": {...}, "zip": {...}, "points": [...], "exclude": [...]}`, in place of the experiment's own.
        show: how many requests to show as rendered.
        fresh, retry: as for `run`.
        project: the project's folder; None: the one that the working directory is in; where that is in none, the one that
            an experiment named by its path is in.
        config_dir: a folder with config groups that wins over all others.

    Raises:
        UsageError: config, data, prompt, schema or metrics are wrong.
        RefusedError: the worst case is above the budget.
    """
    return Project(project, config_dir=config_dir).plan(
        experiment, overrides, sweep=sweep, show=show, fresh=fresh, retry=retry
    )


def run(
    experiment: str | Path,
    overrides: Sequence[str] = (),
    *,
    sweep: Mapping[str, Any] | None = None,
    detach: bool = False,
    fresh: bool = False,
    retry: Sequence[str] = (),
    prune: bool = False,
    confirm: Confirm | None = None,
    observer: Observer | None = None,
    trust_hosts: Sequence[str] = (),
    trust: bool = False,
    project: Path | str | None = None,
    config_dir: Path | str | None = None,
) -> Results:
    """Plans, submits, waits, collects and validates. Called again, it resumes, or finds everything answered.

    Args:
        experiment, overrides, sweep, project, config_dir: as for `plan`.
        detach: return when everything that can be sent now is sent; `watch` resumes.
        fresh: buy again what was answered before.
        retry: states whose rows are asked again: invalid, truncated, refused, filtered, error.
        prune: cancel the batches of older unfinished plans of this experiment that no plan wants any more.
        confirm: asked, with the worst case in USD, before more than `budget.confirm_usd` may be spent; None: that is
            allowed, so set `budget.usd` to be safe.
        observer: hears what happens.
        trust_hosts: hosts that a key may go to although nobody confirmed it before: `HOST`, `HOST:PORT` or a URL.
        trust: a plan that is not known to be yours is taken as yours: its code is run, and keys go where it says.

    Returns:
        The results; `outcome` and `exit_code` say how it ended (3: some rows are not ok).

    Raises:
        UsageError, RefusedError, ProviderError, LockedError, DetachedError: see `batchling.errors`.
    """
    return Project(project, config_dir=config_dir, trust_hosts=trust_hosts, trust=trust).run(
        experiment,
        overrides,
        sweep=sweep,
        detach=detach,
        fresh=fresh,
        retry=retry,
        prune=prune,
        confirm=confirm,
        observer=observer,
    )


def watch(
    plan: str | None = None,
    *,
    detach: bool = False,
    observer: Observer | None = None,
    trust_hosts: Sequence[str] = (),
    trust: bool = False,
    project: Path | str | None = None,
) -> list[Results]:
    """Goes on with one plan, or with every unfinished plan. `trust_hosts`, `trust`: as for `run`.

    Raises:
        LockedError: another process holds the plan.
    """
    return Project(project, trust_hosts=trust_hosts, trust=trust).watch(plan, detach=detach, observer=observer)


def status(plan: str | None = None, *, project: Path | str | None = None) -> PlanStatus:
    """Where a plan's batches, rows and money are. None: the newest plan."""
    return Project(project).status(plan)


def cancel(
    plan: str, *, trust_hosts: Sequence[str] = (), trust: bool = False, project: Path | str | None = None
) -> Outcome:
    """Cancels at the provider, waits for the end, collects what was paid. `trust_hosts`, `trust`: as for `run`."""
    return Project(project, trust_hosts=trust_hosts, trust=trust).cancel(plan)


def load(reference: str | None = None, *, trust: bool = False, project: Path | str | None = None) -> Results:
    """Results of a plan, a run, or an experiment's newest plan, as far as they were collected. None: the newest plan.

    Args:
        trust: a plan that is not known to be yours is taken as yours, so that `objects()` may run its schema's code.

    Raises:
        UsageError: there is no such plan.
    """
    return Project(project, trust=trust).results(reference)


def query(sql: str, *, project: Path | str | None = None) -> QueryResult:
    """One SQL statement over the catalog, opened read-only. Iterate over the result for its rows.

    >>> with batchling.query("select state, count(*) from records group by 1") as rows:   # doctest: +SKIP
    ...     print(rows.columns, list(rows))

    Raises:
        UsageError: DuckDB's message.
    """
    return Project(project).query(sql)
