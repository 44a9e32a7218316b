"""Every exception that batchling raises on purpose, and the exit code that each one means.

::

    BatchlingError                1   something broke that nobody foresaw
    ├── UsageError                2   the command line cannot be understood
    │   ├── ConfigError           2   a config key or value is wrong
    │   ├── DataError             2   the rows are wrong (duplicate id, missing column, bad encoding)
    │   ├── PromptError           2   a template is wrong
    │   └── SchemaError           2   the output schema cannot be expressed in strict mode
    ├── RefusedError              4   a budget or a gate said no; nothing was spent
    ├── ProviderError             5   the provider said no for good (key, quota, model)
    ├── UnfinishedError          75   not over yet, or parked; `next_command` resumes
    │   └── LockedError          75   another process holds the plan
    ├── DetachedError           130   Ctrl-C: nothing is cancelled remotely; `next_command` resumes
    ├── JournalError              2   the plan that was named cannot be read; others are not affected
    │   └── ChangedError          2   a file of it is not what it was when the plan was made
    ├── CatalogError              1   the catalog cannot be used; it is a view and can be rebuilt
    │   ├── CatalogBusyError      1   another process has it open
    │   └── CatalogDamagedError   1   not a catalog of this version, or a damaged one
    └── DiskError                 1   the disk is read-only, or failed to fsync
        └── DiskFullError         1   the disk is full

    CallError                         one call to a provider did not give an answer (never reaches a person as it is)
    ├── CallRefused                   a definite no, with the provider's own error body: unbilled
    ├── CallAmbiguous                 timeout, reset, cut body, 408, 409, 5xx: it may have happened
    ├── CallStopped                   a redirect, or a certificate that fails: asking again does not help, a person must act
    ├── CallUnavailable               a read that can be repeated without limit
    └── CallNotFound                  404: unknown, not gone

Row failures are data (a record's `state`), never exceptions.
"""

from __future__ import annotations

from batchling.models import BatchError


class WaitingWarning(UserWarning):
    """A plan waits without progress: for what, since when, until when, and the command that ends it."""


class NoteWarning(UserWarning):
    """What a person should know before a plan is run: rows with an empty placeholder, braces that look like one, and so on."""


class BatchlingError(Exception):
    """Base of all errors shown to a person: what happened, where, and the next command.

    Args:
        message: what happened, in one sentence or a short list.
        where: file and line, row id or batch id; None when the message names it.
        next_command: the next command to type, or what to edit.
    """

    exit_code = 1

    def __init__(self, message: str, *, where: str | None = None, next_command: str | None = None):
        super().__init__(message)
        self.message = message
        self.where = where
        self.next_command = next_command

    def __str__(self) -> str:
        text = self.message
        if self.where:
            text += f" [{self.where}]"
        if self.next_command:
            text += f"\n  next: {self.next_command}"
        return text


class UsageError(BatchlingError):
    """The command line cannot be understood.

    Args:
        key: the config key that it is about; who knows where that was set adds it to `where`.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, where: str | None = None, next_command: str | None = None, key: str | None = None
    ):
        super().__init__(message, where=where, next_command=next_command)
        self.key = key


class ConfigError(UsageError):
    """A config key or value is wrong; the message names key, value, expectation and origin."""


class DataError(UsageError):
    """The source's rows are wrong; the message shows the row."""


class PromptError(UsageError):
    """A template is wrong; the message shows the placeholder and the columns there are."""


class SchemaError(UsageError):
    """The output schema cannot be expressed in the provider's strict mode."""


class RefusedError(BatchlingError):
    """A budget or a gate said no before anything was spent."""

    exit_code = 4


class ProviderError(BatchlingError):
    """The provider refused for good: key, quota or model."""

    exit_code = 5


class UnfinishedError(BatchlingError):
    """The plan is not over: batches are still out, or a submission is parked."""

    exit_code = 75


class LockedError(UnfinishedError):
    """Another process holds the plan's lock; the message names it."""


class DetachedError(BatchlingError):
    """Ctrl-C: the process stopped watching; the batches keep running at the provider."""

    exit_code = 130


class JournalError(BatchlingError):
    """A plan cannot be read, so what it paid is not certain: its journal is damaged or says what cannot be, its plan.json is
    unreadable, or files are missing. It stops no other plan."""

    exit_code = 2


class ChangedError(JournalError):
    """A file that the plan was made from was changed, removed or added since: nothing of it is run or sent."""


class CatalogError(BatchlingError):
    """The catalog cannot be used. Nothing is lost: it is a view of the plan folders and can be rebuilt."""


class CatalogBusyError(CatalogError):
    """Another process kept the catalog open for too long."""


class CatalogDamagedError(CatalogError):
    """The catalog's file is damaged, or was written by another version."""


class DiskError(BatchlingError):
    """The disk is read-only, or failed to write or fsync."""


class DiskFullError(DiskError):
    """There is no space left: what was freed can be written again."""


class CallError(Exception):
    """One call to a provider did not give an answer.

    Args:
        message: the provider's words, or what the transport said.
        status: HTTP status, when there was one.
        code: the provider's error code, when its body had one.
        retry_after: seconds the provider asked us to wait.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.retry_after = retry_after


class CallRefused(CallError):
    """A 4xx with the provider's own error body: it did not happen and costs nothing.

    Args:
        lines: the lines of the input file that the provider blames, in its own words.
        words: the provider's words alone, without the call and the status; None: `message` is nothing else.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        lines: tuple[BatchError, ...] = (),
        words: str | None = None,
    ):
        super().__init__(message, status=status, code=code, retry_after=retry_after)
        self.lines = lines
        self.words = message if words is None else words


class CallAmbiguous(CallError):
    """The call may have happened: timeout, reset, cut body, 408, 409, 5xx, or a 4xx that is not the provider's."""


class CallStopped(CallError):
    """A call that costs nothing cannot be made safely (another origin, a bad certificate); a person must act first."""


class CallUnavailable(CallError):
    """A call that costs nothing failed for now; repeat it after a while."""


class CallNotFound(CallError):
    """404 on a read: unknown, not gone."""
