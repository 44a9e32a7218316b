"""Collecting: from the raw bytes of output and error files to one decoded line for each request.

Pure. `lines` cuts bytes into lines, an adapter's envelope reads each, `Join` puts it on its request,
`why_failed` and `why_refused` say what a failure of the whole batch means, `limit_of` how much a server says it allows.
"""

from batchling.collect.failure import Failure, FailureKind, why_failed, why_refused
from batchling.collect.join import Join, Judge, Row, Stray, Summary, Verdict, state_of
from batchling.collect.limit import Unit, limit_of
from batchling.collect.lines import MAX_LINE_BYTES, lines
from batchling.collect.outcome import outcome_of_error
from batchling.collect.refusal import About, account_refusal

__all__ = [
    "MAX_LINE_BYTES",
    "About",
    "Failure",
    "FailureKind",
    "Join",
    "Judge",
    "Row",
    "Stray",
    "Summary",
    "Unit",
    "Verdict",
    "account_refusal",
    "limit_of",
    "lines",
    "outcome_of_error",
    "state_of",
    "why_failed",
    "why_refused",
]
