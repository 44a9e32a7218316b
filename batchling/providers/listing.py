"""A provider's list of batches, read page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from batchling.errors import CallUnavailable
from batchling.models import Batch
from batchling.providers.replies import MARGIN_SECONDS, shape
from batchling.providers.wire import Read, Wire

Query = Mapping[str, str | int]

Following = Callable[[dict[str, Any], list[Batch], int], Query | None]
"""(page, its batches, batches seen so far) → what to add to the query for the next page. None: this was the last page; `{}`:
the page says that there are more, and not where."""


def listed(
    wire: Wire,
    path: str,
    query: Query,
    name: str,
    read: Read,
    following: Following,
    *,
    since: float | None = None,
    empty: Callable[[dict[str, Any]], bool] = lambda page: False,
    limit_pages: int,
) -> Iterator[Batch]:
    """Every batch once, in the list's order.

    Args:
        path, query: the first page.
        name: the field that holds a page's batches.
        following: where the next page is.
        empty: whether a page without that field is one without batches. Else it is no page (an error, say), and proves nothing.
        since: Unix seconds. The list begins with the newest, and a page on which all are older is the last that is read.
            None: the list is in no known order.

    Raises:
        CallUnavailable: a page cannot be read, or the list does not end.
    """
    seen: set[str] = set()
    for _ in range(limit_pages):
        data = wire.object("list of batches", "GET", path, query=query)
        entries = data.get(name, [] if empty(data) else None)
        if not isinstance(entries, list):
            raise CallUnavailable(f"the list of batches has no {name} ({shape(data)})", code="unreadable")
        page = [batch for batch in map(read, entries) if batch is not None]
        fresh = [batch for batch in page if batch.id not in seen]
        seen.update(batch.id for batch in page)
        yield from fresh
        dated = [batch.created_at for batch in page if batch.created_at is not None]
        if since is not None and dated and max(dated) < since - MARGIN_SECONDS:
            return
        more = following(data, page, len(seen))
        if more is None:
            return
        if (entries and not fresh) or more.items() <= query.items():
            break
        query = {**query, **more}
    raise CallUnavailable(
        f"provider {wire.provider!r} listed {len(seen)} batches and said there are more, but its next page had no new ones",
        code="list_incomplete",
    )
