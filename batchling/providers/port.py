"""The port: what batchling needs of a provider, and nothing else.

An adapter has two halves. What it writes and reads is pure (dialects and an envelope): planning, decoding, rebuilding
and replaying need that half only, without a key, an SDK or the network. What it carries is a client.

Every call is synchronous and thread-safe, and none of them retries by itself: the runner repeats
what is free, and never repeats what spends. Errors are the `Call…` types of `batchling.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from batchling.dialects import Dialect
from batchling.models import Batch, Garbage, Response, ResultFile, Submission
from batchling.spec import ProviderConfig


class Envelope(Protocol):
    """How a provider wraps a body in a line of its input files, and what a line of its results says. Pure."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        """One line of an input file, line feed included.

        Args:
            custom_id: at most 64 characters of `[A-Za-z0-9_-]`.
            path: URL path of the endpoint.
            body: the request's JSON. The line holds exactly these bytes: the request's key is made from them.
        """
        ...

    def body_of(self, line: bytes) -> bytes:
        """The body of a line that `encode` made, byte for byte."""
        ...

    def decode(self, line: bytes) -> Response | Garbage:
        """One line of a file of results. Never raises, whatever the line holds."""
        ...


class Client(Protocol):
    """One provider, reached with one key.

    On the calls that read (`poll`, `find`, `fetch`, `file_bytes`) and on those that are free and may be
    repeated (`upload`, `fence`, `cancel`):

        CallUnavailable: timeout, reset, cut body, 408, 409, 429, 5xx, or a body that is not the provider's.
        CallStopped: a redirect that the provider is not known for, or a certificate that fails: a person must act.
        CallNotFound: 404; unknown, not gone.
        CallRefused: a definite 4xx with the provider's own error body (a revoked key, for example).
    """

    @property
    def facts(self) -> ProviderConfig:
        """The provider's facts, as configured."""
        ...

    def upload(self, submission: Submission, content: BinaryIO) -> str:
        """Uploads an input file and returns its id. Costs nothing and may be repeated.

        Args:
            submission: names the file, so that a person finds it again.
            content: an open file, read from its beginning in pieces.
        """
        ...

    def create(self, submission: Submission, file_id: str, content: BinaryIO, window: str) -> Batch:
        """Creates the batch. The only call that spends; sent exactly once.

        Args:
            submission: goes into the batch's metadata where the provider has some.
            file_id: what `upload` returned.
            content: the same bytes as `upload` got, open and at their beginning: for a provider that takes the requests
                in the call itself, whose `upload` sends nothing and returns a name of its own for the submission.
            window: completion window, e.g. `24h`, passed on as it is.

        Raises:
            CallRefused: a 4xx (not 408, not 409) with the provider's own error body: nothing was made.
            CallAmbiguous: everything else; the batch may exist.
        """
        ...

    def poll(self, batch_id: str) -> Batch:
        """The batch as it is now."""
        ...

    def find(self, since: float, *, page_size: int = 100, limit_pages: int = 1000) -> Iterator[Batch]:
        """Batches in the provider's list, newest first, at least back to `since`.

        Ends by itself on every server, also on one that ignores its cursor. When it cannot be
        certain that the list went back far enough it yields all it got and then raises
        CallUnavailable, so that a caller never takes a broken list for an absence.

        Args:
            since: unix seconds; an hour is added for clocks that differ.
            page_size: batches asked for in each page.
            limit_pages: pages read at most.
        """
        ...

    def result_files(self, batch: Batch) -> Sequence[ResultFile]:
        """The files of results of a batch that `poll` has just shown: any number of them, none included.

        Asked before the batch is taken for over, and again at each look until what was announced is there. The references are
        opaque: they are journaled, and `fetch` and `file_bytes` get them back, maybe in another process. It may ask the provider.
        """
        ...

    def fetch(self, file_id: str, sink: BinaryIO) -> int:
        """Streams a file's bytes into `sink` and returns how many they were.

        Raises:
            CallUnavailable: also when less arrived than Content-Length announced; `sink` then holds a part.
        """
        ...

    def file_bytes(self, file_id: str) -> int | None:
        """The file's size in bytes as the provider states it; None when it does not."""
        ...

    def fence(self, file_id: str) -> bool:
        """Deletes an input file, so that a create that arrives later must fail.

        Returns:
            True when the provider confirms that the file is gone (deleted now, or a 404 of its own).
            False when it cannot be fenced here.
        """
        ...

    def cancel(self, batch_id: str) -> Batch:
        """Asks for the batch's cancellation; it may take minutes and the rows done are paid."""
        ...

    def fingerprint(self) -> str | None:
        """16 hexadecimal digits that change when the key (or its project) changes; None without a key."""
        ...


@dataclass(frozen=True, slots=True)
class Adapter:
    """A provider's way of speaking and its way of carrying: what an entry point of `batchling.providers` names.

    Attributes:
        envelope: lines.
        dialects: endpoint (`chat`, `responses`, `embeddings`) → how its bodies read; an endpoint that is not there has no
            batches at this provider.
        connect: `(config, base_url, api_key, environ)` → a client. Imports whatever it needs then and not before.
    """

    envelope: Envelope
    dialects: Mapping[str, Dialect]
    connect: Callable[[ProviderConfig, str, str | None, Mapping[str, str]], Client]
