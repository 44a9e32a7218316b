"""How badly a simulated provider behaves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities (0 to 1) of each thing that can go wrong, and the times (seconds) that go with them.

    The default is a provider at which nothing goes wrong.

    Attributes:
        upload_lost, upload_unheard, upload_refused: never arrives; arrives and the reply is lost; 429.
        create_lost, create_unheard: never arrives; the batch is made and the reply is lost.
        create_late: arrives up to `late_seconds` after the client gave up; fails if its file is deleted by then.
        create_refused: a definite 429 or a file that is not ready; create_fatal: a definite 401.
        create_twice: somebody between us and the provider sends the request twice.
        list_lag_seconds: batches appear in the list up to so long after they were made.
        list_down: a page of the list fails; read_down: any other read fails (500, timeout).
        not_found: a spurious 404 on a read.
        download_cut: a download ends early, with or without an error.
        files_late_seconds: a batch that is over gets its files up to so long after.
        sizes: the provider states the sizes of files (and so a silent cut can be seen at once).
        file_short, file_gone: an output file has lost its end for good; is not there at all.
        counts: the provider states how many requests were answered.
        fence_lost, fence_unheard: deleting a file fails; is done and the reply is lost.
        cancel_lost: a cancellation fails; may or may not have been heard.
        enqueued_tokens: prompt tokens that may wait at once; more fails asynchronously with `token_limit_exceeded`.
        limit_at_once: the same refusal comes as a definite 400 (as in some Azure regions).
        batch_expired, batch_failed, batch_cancelled, bad_lines, all_errors: how a batch ends instead of completing.
        row_retryable, row_error, row_missing: rows that are not answered and cost nothing.
        row_account: batches in which the account is refused from some row on (quota, billing, key): these rows are not asked.
        row_invalid, row_refused, row_truncated, row_filtered: answers that are paid and not ok.
        line_twice, line_foreign: lines that are there twice, or that nobody asked for. Order is always random.
        others: other people's batches that appear with each look at the list, up to `others_at_most`.
        run_seconds: shortest and longest time that a batch takes; window_seconds: when it expires.
    """

    upload_lost: float = 0.0
    upload_unheard: float = 0.0
    upload_refused: float = 0.0
    create_lost: float = 0.0
    create_unheard: float = 0.0
    create_late: float = 0.0
    late_seconds: float = 600.0
    create_refused: float = 0.0
    create_fatal: float = 0.0
    create_twice: float = 0.0
    list_lag_seconds: float = 0.0
    list_down: float = 0.0
    read_down: float = 0.0
    not_found: float = 0.0
    download_cut: float = 0.0
    files_late_seconds: float = 0.0
    file_short: float = 0.0
    file_gone: float = 0.0
    sizes: bool = True
    counts: bool = True
    fence_lost: float = 0.0
    fence_unheard: float = 0.0
    cancel_lost: float = 0.0
    enqueued_tokens: int | None = None
    limit_at_once: bool = False
    batch_expired: float = 0.0
    batch_failed: float = 0.0
    batch_cancelled: float = 0.0
    bad_lines: float = 0.0
    all_errors: float = 0.0
    row_retryable: float = 0.0
    row_error: float = 0.0
    row_missing: float = 0.0
    row_account: float = 0.0
    row_invalid: float = 0.0
    row_refused: float = 0.0
    row_truncated: float = 0.0
    row_filtered: float = 0.0
    line_twice: float = 0.0
    line_foreign: float = 0.0
    others: float = 0.0
    others_at_most: int = 12
    run_seconds: tuple[float, float] = (60.0, 3600.0)
    window_seconds: float = 86_400.0
