"""A project's folder and everything that can be done in it: the one door for programs.

>>> from batchling import Project
>>> project = Project()                                                    # doctest: +SKIP
>>> project.plan("intent", ["data.limit=100"]).max_usd                     # doctest: +SKIP
Decimal('0.0413')
>>> project.run("intent", ["data.limit=100"]).metrics["accuracy"].value    # doctest: +SKIP
0.93

`batchling.plan`, `batchling.run` and the like are calls of it. Nothing heavy is imported before a method is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.results import Results

if TYPE_CHECKING:
    from batchling import config
    from batchling.api.compare import Comparison
    from batchling.api.outcome import Outcome, PlanReport, PlanStatus
    from batchling.api.standing import PlanLine
    from batchling.api.workspace import Workspace
    from batchling.catalog import QueryResult, Space
    from batchling.providers.gate import Gate
    from batchling.runner.session import Observer

Confirm = Callable[[str, Decimal | None], bool]
"""(what is about to be sent, its worst case in USD or None when unknown) → whether to send it."""


class Project:
    """A folder with `conf/`, `experiments/` and `runs/`.

    Args:
        folder: the project's folder, or one inside it; None: the one that the working directory is in; where that is in
            none, the one that an experiment named by its path is in.
        config_dir: a folder with config groups that wins over all others.
        trust_hosts: hosts that a key may go to although nobody confirmed it before: `HOST`, `HOST:PORT` or a URL.
        trust: a plan that is not known to be yours is taken as yours: its code is run, and keys go where it says.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        *,
        config_dir: Path | str | None = None,
        trust_hosts: Sequence[str] = (),
        trust: bool = False,
    ):
        self._start = folder
        self.config_dir = None if config_dir is None else Path(config_dir)
        self._hosts, self._trust = tuple(trust_hosts), trust

    def __repr__(self) -> str:
        return f"<batchling project in {self.folder}>"

    @property
    def folder(self) -> Path:
        return self._place().root

    @property
    def runs(self) -> Path:
        """Where plans are: env BATCHLING_RUNS, else `paths.runs` of the project's `conf/base.yaml`, else `runs`."""
        return self._place().runs

    def experiments(self) -> list[str]:
        """The names of the project's experiments."""
        from batchling.config import experiment_names

        return experiment_names(self._place())

    # -- what spends

    def plan(
        self,
        experiment: str | Path,
        overrides: Sequence[str] = (),
        *,
        sweep: Mapping[str, Any] | None = None,
        show: int = 0,
        fresh: bool = False,
        retry: Sequence[str] = (),
    ) -> PlanReport:
        """What `run` would send and cost. Sends nothing, leaves nothing in the project.

        Args:
            experiment: a folder with a config.yaml, a .yaml file, or a name in `experiments/`.
            overrides: in Hydra's grammar, `model=a,b` sweeps.
            sweep: `{"grid": {...}, "zip": {...}, "points": [...], "exclude": [...]}`, in place of the experiment's own.
            show: how many requests to show as rendered.
            fresh, retry: as for `run`.

        Raises:
            UsageError: config, data, prompt, schema or metrics are wrong.
            RefusedError: the worst case is above the budget.
        """
        from batchling.api import verbs

        return verbs.plan(
            experiment,
            overrides,
            multirun=True,
            sweep=sweep,
            show=show,
            fresh=fresh,
            retry=retry,
            project=self._place(experiment),
            config_dir=self.config_dir,
        )

    def run(
        self,
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
    ) -> Results:
        """Plans, submits, waits, collects and validates. Called again, it resumes, or finds everything answered.

        Args:
            experiment, overrides, sweep: as for `plan`.
            detach: return when everything that can be sent now is sent; `watch` resumes.
            fresh: buy again what was answered before.
            retry: states whose rows are asked again: invalid, truncated, refused, filtered, error.
            prune: cancel the batches of older unfinished plans of this experiment that no plan wants any more.
            confirm: asked, with the worst case in USD, before more than `budget.confirm_usd` may be spent; None: that is
                allowed, so set `budget.usd` to be safe.
            observer: hears what happens.

        Returns:
            The results; `outcome` and `exit_code` say how it ended (3: some rows are not ok).

        Raises:
            UsageError, RefusedError, ProviderError, LockedError, DetachedError: see `batchling.errors`.
        """
        from batchling.api import verbs

        outcome = verbs.run(
            experiment,
            overrides,
            multirun=True,
            sweep=sweep,
            detach=detach,
            fresh=fresh,
            retry=retry,
            prune=prune,
            confirm=confirm,
            observer=observer,
            gate=self._gate(),
            project=self._place(experiment),
            config_dir=self.config_dir,
        )
        return Results(outcome.folder, outcome=outcome)

    def watch(
        self, plan: str | None = None, *, detach: bool = False, observer: Observer | None = None
    ) -> list[Results]:
        """Resumes one plan, or every unfinished plan.

        Raises:
            LockedError: another process holds the plan.
        """
        from batchling.api import verbs

        outcomes = verbs.watch(plan, runs=self.runs, detach=detach, observer=observer, gate=self._gate())
        return [Results(outcome.folder, outcome=outcome) for outcome in outcomes]

    # -- what reads

    def status(self, plan: str | None = None) -> PlanStatus:
        """Where a plan's batches, rows and money are. None: the newest plan."""
        from batchling.api import standing

        return standing.status(plan, runs=self.runs)

    def plans(self) -> list[PlanLine]:
        """Every plan in a line, oldest first."""
        from batchling.api import standing

        return standing.listing(runs=self.runs)

    def results(self, reference: str | None = None) -> Results:
        """Results of a plan, a run, or an experiment's newest plan, as far as they were collected. None: the newest plan.

        With the project's `trust` a plan that is not known to be yours is taken as yours, so that `objects()` may run its
        schema's code.

        Raises:
            UsageError: there is no such plan.
        """
        from batchling import catalog
        from batchling.api.ownership import take_if_told
        from batchling.runner.folder import PlanFolder

        workspace = self._workspace()
        if reference is None:
            reference = workspace.find(None).plan_id
        found = catalog.resolve(workspace.runs, reference)
        summary = catalog.read_summary(found.plan_dir)
        if summary is None or summary.stale:
            workspace.refresh(PlanFolder(found.plan_dir))
        if self._trust:
            take_if_told(workspace, PlanFolder(found.plan_dir))
        return Results(found.plan_dir, run_id=found.run_id)

    def compare(
        self,
        *plans: str,
        by: Sequence[str] = (),
        baseline: str | None = None,
        higher: Sequence[str] | None = None,
        lower: Sequence[str] = (),
    ) -> Comparison:
        """Metrics, cost, tokens and time side by side; differences on the same rows.

        Args:
            plans: plans, runs or experiments' names; none: the newest plan.
            by: override keys (`model`, `prompt`); runs that agree in them are one point.
            baseline: a run, which every other point is compared with; None: the first point.
            higher, lower: metrics that count for being best; None: higher is better in every yes-or-no metric.

        Raises:
            UsageError: no such plan, key, metric or baseline, or nothing to compare yet.
        """
        from batchling.api.compare import compare

        return compare(plans, runs=self.runs, by=by, baseline=baseline, higher=higher, lower=lower)

    def query(self, sql: str) -> QueryResult:
        """One SQL statement over the catalog, opened read-only. Iterate over the result for its rows.

        Raises:
            UsageError: DuckDB's message.
        """
        from batchling import catalog

        workspace = self._workspace()
        workspace.refresh_stale()
        return catalog.query(workspace.runs, sql)

    def du(self) -> Space:
        """Disk used by plans, and by the parts of each."""
        from batchling import catalog

        return catalog.du(self.runs)

    # -- what a person decides

    def cancel(self, plan: str, *, observer: Observer | None = None) -> Outcome:
        """Cancels at the provider, waits for the end, collects what was paid."""
        from batchling.api import verbs

        return verbs.cancel(plan, runs=self.runs, observer=observer, gate=self._gate())

    def resolve(
        self,
        plan: str,
        decision: str,
        *,
        batch_id: str | None = None,
        shard: int | None = None,
        force: bool = False,
    ) -> PlanStatus:
        """Decides what became of a submission whose fate is unknown.

        Args:
            decision: adopt (it is this batch), resubmit (it did not happen), or drop (leave its rows).
            shard: which, when several need a decision.
            force: with adopt, although the batch does not say that it is ours; with resubmit, although a batch that runs
                may be it; with drop, without asking the provider.

        Raises:
            UsageError: nothing needs a decision, or this one does not fit.
        """
        from batchling.api import verbs

        return verbs.resolve(
            plan, runs=self.runs, decision=decision, batch_id=batch_id, shard=shard, force=force, gate=self._gate()
        )

    def rm(self, plan: str, *, keep_answers: bool = False, force: bool = False) -> int:
        """Removes a finished plan's files; its answers stay reusable only with `keep_answers`.

        Args:
            force: also a plan that cannot be read, or whose batches were given up.

        Returns:
            Bytes freed.

        Raises:
            UsageError: the plan is not finished.
        """
        from batchling.api import verbs

        return verbs.remove(plan, runs=self.runs, keep_answers=keep_answers, force=force)

    def _place(self, experiment: str | Path | None = None) -> config.Project:
        from batchling.config import find_project, project_of

        return find_project(self._start) if experiment is None else project_of(experiment, self._start)

    def _gate(self) -> Gate:
        from batchling.providers.gate import Gate

        return Gate(hosts=self._hosts, plans=self._trust)

    def _workspace(self) -> Workspace:
        from batchling.api.workspace import Workspace

        return Workspace(self.runs, gate=self._gate())
