"""The quick start in Python: an experiment from plain values, without a config file.

::

    em = ExperimentManager()
    experiment = em.start_experiment(
        experiment_id="my-experiment-1", model="gpt-4o-mini",
        template_messages=[{"role": "user", "content": "What is your name? Mine is {name}"}],
        placeholders=[{"name": "John Doe"}, {"name": "Jane Doe"}],
        input_file_path="input.jsonl",
    )
    experiment.setup()                   # writes the input file
    experiment.start()                   # uploads it and creates the batch
    experiment.get_results()             # waits

It is the engine of `batchling run`: an experiment is a plan in the project's `runs/` folder, and every command
(`batchling status`, `watch`, `results`) works on it.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from batchling.errors import (
    BatchlingError,
    JournalError,
    NoteWarning,
    ProviderError,
    RefusedError,
    UnfinishedError,
    UsageError,
)
from batchling.prompt import value_text
from batchling.results import Results

if TYPE_CHECKING:
    from pydantic import BaseModel

    from batchling.api.outcome import Outcome
    from batchling.api.workspace import Workspace
    from batchling.runner.folder import PlanFolder
    from batchling.spec import Spec


class ExperimentManager:
    """Starts experiments and finds them again.

    Args:
        project: the project's folder, whose `runs/` holds the plans; None: the one the working directory is in.
        trust_hosts: hosts that a key may go to although nobody confirmed it before: `HOST`, `HOST:PORT` or a URL.
        trust: plans that are not known to be yours are taken as yours: their code is run, and keys go where they say.
    """

    def __init__(self, project: Path | str | None = None, *, trust_hosts: Sequence[str] = (), trust: bool = False):
        from batchling.api.workspace import Workspace
        from batchling.config import find_project
        from batchling.providers.gate import Gate

        self._project = find_project(project)
        self._workspace = Workspace(self._project.runs, gate=Gate(hosts=trust_hosts, plans=trust))

    def start_experiment(
        self,
        experiment_id: str,
        model: str,
        template_messages: Sequence[Mapping[str, str]],
        placeholders: Sequence[Mapping[str, Any]],
        *,
        name: str | None = None,
        description: str | None = None,
        input_file_path: Path | str | None = None,
        provider: str | None = None,
        output_schema: type[BaseModel] | Mapping[str, Any] | str | None = None,
        params: Mapping[str, Any] | None = None,
        max_output_tokens: int | None = None,
        budget_usd: float | None = None,
    ) -> Experiment:
        """An experiment, checked and ready for `setup` and `start`. Nothing is written or sent yet.

        Args:
            experiment_id: names the experiment; letters, digits, `.`, `_` and `-`.
            model: a name in `conf/model` (it selects its provider), or any model of the `provider` given.
            template_messages: role and content of each message; `{column}` is filled in from the placeholders.
            placeholders: one row for each request: what JSON can hold, and decimals, dates, times and UUIDs, which a prompt
                shows as text.
            name, description: for people.
            input_file_path: where `setup` writes the request lines; its folders are made. None: only in the plan's folder.
            provider: a name in `conf/provider`; `"local"` is the embedded server, which needs no key.
            output_schema: fields as in a config (`{"label": {"enum": ["a", "b"]}}`), an importable pydantic class, or
                `"schema.py:Model"`; None: plain text.
            params: go into every request as they are, e.g. `{"temperature": 0}`.
            max_output_tokens: the longest answer; needed with `budget_usd`.
            budget_usd: the plan is refused when its worst case is above this.

        Raises:
            ConfigError: something is wrong; all of it is listed.
        """
        from batchling.config import from_values

        document: dict[str, Any] = {
            "name": experiment_id,
            "data": {"rows": [{name: _placeholder(value) for name, value in row.items()} for row in placeholders]},
            "model": model,
            "prompt": {"messages": [dict(message) for message in template_messages]},
        }
        about = ": ".join(text for text in (name, description) if text)
        if about:
            document["description"] = about
        if provider is not None:
            document["provider"] = provider
        if budget_usd is not None:
            document["budget"] = {"usd": budget_usd}
        if output_schema is not None:
            document["schema"] = _schema(output_schema)
        if params or max_output_tokens is not None:
            # What the model's file says, with these on top.
            plain = {key: value for key, value in document.items() if key != "budget"}
            chosen = from_values(plain, self._project.root).document
            given = {"params": dict(params or {}), "max_output_tokens": max_output_tokens}
            document["model"] = chosen["model"] | {key: value for key, value in given.items() if value}
            document["provider"] = chosen["provider"]
        spec = from_values(document, self._project.root)
        return Experiment(
            self._workspace,
            experiment_id,
            name=name,
            description=description,
            spec=spec,
            input_file_path=None if input_file_path is None else Path(input_file_path),
        )

    def load_experiment(self, experiment_id: str) -> Experiment:
        """An experiment that was set up before, also by `batchling run`: its newest plan.

        Raises:
            UsageError: there is none.
        """
        for experiment in reversed(self.list_experiments()):
            if experiment.experiment_id == experiment_id:
                return experiment
        raise UsageError(
            f"no experiment {experiment_id!r} in {self._workspace.runs}",
            next_command="ExperimentManager().list_experiments()",
        )

    def list_experiments(self) -> list[Experiment]:
        """Every experiment that has a plan, each once, the one with the newest plan last."""
        from batchling.runner.broken import name as tell
        from batchling.runner.folder import folders

        found: dict[str, Experiment] = {}
        for folder in folders(self._workspace.disk, self._workspace.runs):
            try:
                document = folder.load(self._workspace.disk)
            except JournalError as error:
                tell(folder, error)
                continue
            experiment_id = document.experiment
            found.pop(experiment_id, None)
            found[experiment_id] = Experiment(
                self._workspace,
                experiment_id,
                description=document.runs[0].description if document.runs else None,
                folder=folder,
            )
        return list(found.values())


class Experiment:
    """One experiment. Made by `ExperimentManager`.

    Attributes:
        experiment_id, name, description: as given.
        input_file_path: where `setup` writes the request lines.
    """

    def __init__(
        self,
        workspace: Workspace,
        experiment_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        spec: Spec | None = None,
        input_file_path: Path | None = None,
        folder: PlanFolder | None = None,
    ):
        self.experiment_id = experiment_id
        self.name = name
        self.description = description
        self.input_file_path = input_file_path
        self._workspace = workspace
        self._spec = spec
        self._folder = folder
        self._made = False

    def __repr__(self) -> str:
        return f"<experiment {self.experiment_id}: {self.status}>"

    @property
    def plan_id(self) -> str | None:
        """The plan's id, for `batchling status`; None before `setup`."""
        return None if self._folder is None else self._folder.plan_id

    @property
    def status(self) -> str:
        """`new` before `setup`; then planned, waiting, parked, refused, finished or cancelled."""
        from batchling.api.workspace import state_name

        return "new" if self._folder is None else state_name(self._workspace.state(self._folder, to_show=True))

    def setup(self) -> Path:
        """Makes the plan and writes the input file: exactly the lines that `start` uploads. Sends nothing.

        Rows that were answered before are not asked again, so they have no line.

        Returns:
            The input file; without `input_file_path` the plan's folder of requests.

        Raises:
            UsageError: data, prompt or schema are wrong.
            RefusedError: the worst case is above the budget.

        Warns:
            NoteWarning: what `batchling plan` would note, e.g. empty placeholders.
        """
        if self._folder is None:
            self._open()
        assert self._folder is not None
        if self.input_file_path is None:
            return self._folder.requests
        self.input_file_path.parent.mkdir(parents=True, exist_ok=True)
        part = self.input_file_path.with_name(f".{self.input_file_path.name}.{os.getpid()}.part")
        with part.open("wb") as target:
            for shard in sorted(self._folder.requests.glob("[0-9]*.jsonl")):
                with shard.open("rb") as lines:
                    shutil.copyfileobj(lines, target)
        part.replace(self.input_file_path)
        return self.input_file_path

    def start(self) -> None:
        """Uploads the input file and creates the batch; returns without waiting.

        Raises:
            ProviderError: there is no key, or the provider refused.
            RefusedError: the budget does not allow it.
            LockedError: another process works on this plan.
        """
        from batchling.api.execution import advance

        self._needs_key()
        if self._folder is None:
            self.setup()
        assert self._folder is not None
        _raise_for(advance(self._workspace, self._folder, detach=True))

    def get_results(self) -> Results:
        """Waits until everything is answered, and returns the rows with their answers.

        Raises:
            UsageError: it was not started.
            UnfinishedError: a person has to decide first (`batchling status`).
        """
        from batchling.api.execution import advance

        if self._folder is None:
            raise UsageError(f"experiment {self.experiment_id} was not started", next_command="experiment.start()")
        outcome = advance(self._workspace, self._folder)
        _raise_for(outcome)
        return Results(self._folder.path, outcome=outcome)

    def _open(self) -> None:
        from functools import partial

        from batchling.api import ownership
        from batchling.runner.planning import open_plan

        assert self._spec is not None
        opened = open_plan(
            self._workspace.disk,
            self._workspace.clock,
            self._workspace.runs,
            [self._spec],
            command="experiment.start()",
            refresh_stale=self._workspace.refresh_stale,
            remember=ownership.remember,
            recognise=partial(ownership.recognise, self._workspace),
        )
        self._folder = opened.folder
        self._made = opened.how == "created"
        for note in opened.notes:
            warnings.warn(note, NoteWarning, stacklevel=3)

    def _needs_key(self) -> None:
        """Without a key nothing is left behind that a later `batchling watch` would send."""
        if self._spec is None:
            return
        provider = self._spec.config.provider
        variable = provider.api_key_env
        if not variable or os.environ.get(variable, "").strip():
            from batchling.providers.gate import Gate

            try:
                (self._workspace.gate or Gate()).admit(provider)
            except BatchlingError:
                self._forget()
                raise
            return
        self._forget()
        raise ProviderError(
            f"provider {provider.name!r} needs a key, and the variable {variable} is not set",
            next_command=f'export {variable}=…, or start_experiment(…, provider="local"), which needs no key',
        )

    def _forget(self) -> None:
        if self._folder is not None and self._made:
            from batchling import catalog
            from batchling.runner.planning import forget

            forget(self._workspace.disk, self._folder)
            catalog.forget(self._workspace.runs, self._folder.plan_id)
            self._folder = None


def _placeholder(value: Any) -> Any:
    """A value as a config can hold it; a prompt shows the same text."""
    if isinstance(value, Mapping):
        return {str(name): _placeholder(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_placeholder(item) for item in value]
    if isinstance(value, Decimal | date | time | UUID) or (type(value) is int and value.bit_length() > 63):
        return value_text(value)
    return value


def _schema(given: type[BaseModel] | Mapping[str, Any] | str) -> dict[str, Any]:
    """The config's `schema:` section. A plan is made of files and names only, so a class must have an importable one."""
    if isinstance(given, str):
        return {"pydantic": given}
    if isinstance(given, Mapping):
        return {"fields": dict(given)}
    if given.__module__ == "__main__" or "<locals>" in given.__qualname__:
        raise UsageError(
            f"{given.__qualname__} cannot be imported from elsewhere, so the plan could not be read again",
            next_command='put it into a file and give output_schema="schema.py:' + given.__name__ + '"',
        )
    return {"pydantic": f"{given.__module__}:{given.__qualname__}"}


def _raise_for(outcome: Outcome) -> None:
    """An outcome that somebody has to do something about."""
    details = "; ".join(outcome.details)
    if outcome.reason == "refused":
        raise ProviderError(details or "the provider refused", next_command=outcome.next_command)
    if outcome.reason == "budget":
        raise RefusedError(details, next_command=outcome.next_command)
    if outcome.reason in ("parked", "unread"):
        raise UnfinishedError(details, next_command=outcome.next_command)
