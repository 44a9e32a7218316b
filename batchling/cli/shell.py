"""What holds for every command: the options that may stand before or after it, and the project it works in."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from batchling.config import Project

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Shell:
    """One invocation.

    Attributes:
        json: results go to stdout as one JSON document.
        verbose: say more, and show tracebacks.
        config_dir: a folder with config groups that wins over all others.
        folder: `--project`: where the project is looked for; None: the working directory.
        hosts: `--trust-host`: hosts that a key may go to, in this command.
        trust: `--trust`: plans that are not known to be the user's are taken.
        used: the runs folder of the experiment, where the command took it from there; None: `runs`.
        answered: a JSON document was written, so an error afterwards does not write another.
    """

    json: bool = False
    verbose: bool = False
    config_dir: Path | None = None
    folder: Path | None = None
    hosts: tuple[str, ...] = ()
    trust: bool = False
    used: Path | None = None
    answered: bool = False
    _project: Project | None = field(default=None, repr=False)

    @property
    def project(self) -> Project:
        if self._project is None:
            from batchling.config.project import find_project

            self._project = find_project(self.folder)
        return self._project

    def project_of(self, experiment: str) -> Project:
        """The project that an experiment runs in."""
        from batchling.config.project import project_of

        return project_of(experiment, self.folder)

    @property
    def runs(self) -> Path:
        """The folder that plans are in."""
        return self.project.runs

    def command(self, text: str) -> str:
        """A command as it has to be typed here: where plans are not where it would look for them, that is said."""
        if text.startswith(("batchling run ", "batchling watch", "batchling cancel ", "batchling resolve ")):
            named = [word for host in self.hosts if host not in text for word in ("--trust-host", shlex.quote(host))]
            words = text.split(" ")  # after the plan or experiment: what follows may be a choice of options
            text = " ".join([*words[:3], *named, *words[3:]])
        if self.used is None or not text.startswith("batchling "):
            return text
        used = self.used.resolve()
        if used == self.runs.resolve() or text.startswith("batchling run "):  # that one says where by itself
            return text
        return f"BATCHLING_RUNS={shlex.quote(str(used))} {text}"

    def say(self, text: str) -> None:
        """A message for a person: stderr."""
        click.echo(text, err=True)

    def note(self, text: str) -> None:
        """A message for a person who asked for more (`-v`)."""
        if self.verbose:
            click.echo(text, err=True)

    def out(self, text: str) -> None:
        """A result: stdout. A reader that has gone away does not change how the command ends."""
        try:
            click.echo(text)
        except BrokenPipeError:
            sys.stdout = open("/dev/null", "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as the process


def _keep(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Shell), name, value)

    return callback


_EXISTING = click.Path(exists=True, file_okay=False, path_type=Path)

COMMON = (
    click.option(
        "--json",
        is_flag=True,
        expose_value=False,
        callback=_keep("json"),
        help="Write the result to stdout as one JSON document; money as text.",
    ),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_keep("verbose"),
        help="Print more, including the traceback of an error.",
    ),
    click.option(
        "--config-dir",
        type=_EXISTING,
        expose_value=False,
        callback=_keep("config_dir"),
        metavar="DIR",
        help="A folder of config groups that takes precedence over all others.",
    ),
    click.option(
        "--project",
        type=_EXISTING,
        expose_value=False,
        callback=_keep("folder"),
        metavar="DIR",
        help="The project's folder. Default: the one that the working directory is in; where that is in none, the one that "
        "an EXPERIMENT named by its path is in.",
    ),
)


def common(function: F) -> F:
    """Adds the options that every command has."""
    for option in reversed(COMMON):
        function = option(function)
    return function


pass_shell = click.make_pass_decorator(Shell, ensure=True)
