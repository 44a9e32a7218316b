"""Writes docs/reference/catalog.md from the tables in `batchling/catalog/tables.py`.

python docs/generate_catalog.py            writes it
python docs/generate_catalog.py --check    fails when it is out of date
"""

from __future__ import annotations

import sys
from pathlib import Path

from batchling.catalog.tables import TABLES

PAGE = Path(__file__).parent / "reference" / "catalog.md"

INTRODUCTION = """\
# The catalog

Written by `python docs/generate_catalog.py`.

`runs/catalog.duckdb` holds everything of every plan. It is a view of the plan folders: `batchling query` brings it up to date
before it answers, and deleting it loses nothing (`batchling doctor --rebuild` makes it again from the files). Columns are not
renamed or removed; more may be added. Ids are VARCHAR, times TIMESTAMPTZ in UTC, money is DECIMAL(18,9) in USD and NULL where
it is not known.

```sh
batchling query "select state, count(*) from records group by 1"
```

Prefer `batchling query`, or `batchling.query` in Python, to opening the file: DuckDB locks a database for everybody while it is
written, and batchling's own lock (`catalog.duckdb.lock`) is what lets readers and writers take turns. To work on it with
another tool, use a copy made while nothing runs, or export with `batchling results`.

Some questions:

```sql
-- what was spent, by provider and month
select provider, date_trunc('month', created_at) as month, sum(paid_usd) as usd
from runs join plans using (plan_id) group by all order by all;

-- the labels of one run that are wrong most often
select data->>'category' as wanted, output->>'label' as got, count(*) as n
from results where run_id = '9e2f48-01' and wanted <> got group by all order by n desc limit 20;

-- why rows are not ok
select state, error, count(*) from records where state <> 'ok' group by all order by 3 desc;

-- batches that took longest
select plan_id, shard, provider, model, ended_at - submitted_at as took from batches order by took desc limit 10;
```

`output` and `data` are JSON here; in `records.parquet` of the plan's folder they are STRUCTs typed from the schema and the source.
"""

ABOUT = {
    "plans": "One row for each plan.",
    "runs": "One row for each run: a point of a sweep, or the plan's only one. `cost_usd` is what its answers cost, whenever "
    "they were bought; `paid_usd` the part that this plan bought.",
    "requests": "One row for each request that the plan sends. `parent_key` is set for repairs.",
    "run_requests": "Which request answers which row: rows that ask the same share one.",
    "batches": "One row for each attempt of each shard at a provider.",
    "responses": "What came back, decoded; `file`, `offset` and `length` say where the raw line is.",
    "records": "One row for each run, row and repeat: the result.",
    "metrics": "The value of each metric with its 95 % interval; `n` rows it rests on, `coverage` their share.",
    "events": "The journals.",
}


def page() -> str:
    """The page's text."""
    blocks = [INTRODUCTION.strip(), "## Tables"]
    for table, columns in TABLES.items():
        rows = [f"| `{name}` | {kind.replace('|', chr(92) + '|')} |" for name, kind in columns.items()]
        blocks.append("\n".join([f"### {table}", "", ABOUT[table], "", "| column | type |", "|---|---|", *rows]))
    blocks.append(
        "### results\n\nA view: `records` with `provider`, `model` and `overrides` of their run. A run that was planned again "
        "has its rows once for each plan; `plan_id` tells them apart."
    )
    return "\n\n".join(blocks) + "\n"


def main(arguments: list[str]) -> int:
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{PAGE.name} is out of date: python docs/{Path(__file__).name}\n")
        return 1
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
