"""The config tree: what a person may write, validated once and frozen.

One pydantic tree over the composed, resolved config. Extra keys are forbidden, so a misspelt key
is an error and never silently ignored. `Spec` is a run made of it: every file read, nothing left
to look up later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from batchling.errors import UsageError

Endpoint = Literal["chat", "responses", "embeddings"]

ENDPOINT_PATHS: dict[str, str] = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}


class Section(BaseModel):
    """Base of every config section: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, protected_namespaces=())


class PriceConfig(Section):
    """USD per million tokens at the provider's batch rate; overrides the price tables."""

    input: float = Field(ge=0, allow_inf_nan=False, description="Input tokens.")
    output: float = Field(default=0.0, ge=0, allow_inf_nan=False, description="Output tokens.")
    cached: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Input tokens that the provider had cached; null: as input.",
    )


class ModelConfig(Section):
    """Which model answers, through which endpoint, with which parameters."""

    id: str = Field(
        min_length=1, description="The model's name as the provider spells it; on Azure the deployment's name."
    )
    endpoint: Endpoint = Field(default="chat", description="chat completions, responses or embeddings.")
    params: dict[str, JsonValue] = Field(default_factory=dict, description="Goes into the request body as it is.")
    max_output_tokens: PositiveInt | None = Field(default=None, description="Tokens; needed when budget.usd is set.")
    tokenizer: str | None = Field(
        default=None, description="tiktoken encoding, e.g. o200k_base; null: chosen by the model's name."
    )
    tokenizer_file: str | None = Field(
        default=None,
        description="The model's tokenizer.json, beside the config or from the working directory; counts exactly, with "
        "the extra `tokenizers`.",
    )
    token_factor: PositiveFloat = Field(
        default=1.0,
        allow_inf_nan=False,
        description="Multiplies counted tokens, for models whose tokenizer is not available.",
    )
    context_tokens: PositiveInt | None = Field(
        default=None, description="The longest input that the model takes, in tokens; null: not known."
    )
    output_tokens: PositiveInt | None = Field(
        default=None, description="The longest answer that the model can give, in tokens; null: not known."
    )
    refuses: list[str] = Field(
        default_factory=list,
        description="Parameters of the API that the model refuses, unless they have the API's default (a+b: both together), "
        "endpoints that it does not answer, and prefill: a prompt that ends with the assistant's words.",
    )
    strict_schema: bool = Field(default=True, description="The model takes a JSON Schema in the request.")
    json_mode: bool = Field(
        default=False,
        description="The model takes JSON mode (response_format json_object); asked where it takes no schema.",
    )
    price: PriceConfig | None = Field(default=None, description="USD per million tokens; null: the price tables.")
    price_as: str | None = Field(default=None, description="Look the price up as this model, e.g. on Azure.")
    checked: str | None = Field(default=None, description="Day on which these facts were checked.")
    source: list[str] = Field(default_factory=list, description="Where the facts come from.")


Share = Annotated[float, Field(ge=0, le=1)]


class FaultsConfig(Section):
    """What goes wrong at the simulated engine: a share of the requests each, chosen by the request and the seed."""

    invalid: Share = Field(default=0.0, description="Answers that do not fit the schema (where there is one).")
    truncated: Share = Field(default=0.0, description="Answers cut as if at the limit of output tokens.")
    refused: Share = Field(default=0.0, description="Answers in which the model declines.")
    filtered: Share = Field(default=0.0, description="Answers cut by a content filter.")
    error: Share = Field(default=0.0, description="Error rows (500), the same at each attempt.")

    @model_validator(mode="after")
    def _parts_of_one(self) -> FaultsConfig:
        if (total := sum(share for _, share in self)) > 1 + 1e-9:
            raise ValueError(f"the shares add up to {total:g}, more than 1")
        return self


class EngineConfig(Section):
    """What answers the requests of the embedded server."""

    kind: Literal["simulated", "echo", "http"] = Field(
        default="simulated",
        description="What answers: made up to fit the schema; the last message back; a synchronous endpoint.",
    )
    upstream: str | None = Field(
        default=None, description="http: base URL of the synchronous endpoint, e.g. http://127.0.0.1:11434/v1"
    )
    api_key_env: str | None = Field(
        default=None, description="http: name of the variable that holds the upstream's key."
    )
    concurrency: PositiveInt = Field(default=8, description="Requests answered at the same time.")
    rpm: PositiveInt | None = Field(default=None, description="http: requests per minute.")
    tpm: PositiveInt | None = Field(default=None, description="http: tokens per minute.")
    retries: int = Field(default=5, ge=0, description="http: attempts after the first for 408, 429 and 5xx.")
    timeout_seconds: PositiveFloat = Field(default=600.0, description="http: how long one request may take.")
    seed: int = Field(default=0, description="simulated: another seed, other answers.")
    faults: FaultsConfig = Field(default=FaultsConfig(), description="simulated: what goes wrong, a share each.")
    pretend: PriceConfig | None = Field(
        default=None,
        description="simulated, echo: USD per million tokens that answers are said to cost, for trying out budgets and "
        "comparisons; null: nothing.",
    )


class ProviderLimits(Section):
    """A provider's published limits. null: none known."""

    max_requests: PositiveInt | None = Field(default=None, description="Requests in a batch.")
    max_bytes: PositiveInt | None = Field(default=None, description="Bytes in an input file (decimal).")
    max_line_bytes: PositiveInt | None = Field(default=None, description="Bytes in a line.")
    max_inputs: PositiveInt | None = Field(default=None, description="Embedding inputs in a batch.")
    enqueued_tokens: PositiveInt | dict[str, PositiveInt] | None = Field(
        default=None, description="Prompt tokens that may wait at once, for every model or by model id."
    )
    concurrent_batches: PositiveInt | None = Field(default=None, description="Batches that may be out at once.")
    creations_per_hour: PositiveInt | None = Field(default=None, description="Batches that may be created in an hour.")


class Capabilities(Section):
    """What the submission protocol can rely on at this provider."""

    metadata: bool = Field(default=True, description="A batch carries our metadata and a list shows it.")
    marker: Literal["batch", "results"] = Field(
        default="batch",
        description="Where a batch says that it is ours: in itself (metadata, input file, name), or only in the custom_ids of "
        "its results.",
    )
    list: bool = Field(default=True, description="Batches can be listed.")
    list_order: Literal["newest", "oldest", "unknown"] = Field(
        default="newest", description="Which batch a list begins with."
    )
    paging: Literal["after", "cursor", "none"] = Field(
        default="after",
        description="How a list's next page is asked for: by the last id, by the list's own cursor, not at all.",
    )
    fence: Literal["delete_file", "none"] = Field(
        default="delete_file", description="What makes a create that arrives late fail: deleting its input file."
    )
    settle_seconds: float = Field(
        default=900.0, ge=0, description="A create that has not shown in a list after this long did not happen."
    )
    output_expires_after: bool = Field(default=False, description="A create may say when its output files are deleted.")
    files_expire_after: bool = Field(default=False, description="An upload may say when the file is deleted.")
    not_found_grace_seconds: float = Field(
        default=3600.0, ge=0, description="How long a batch that is not found (404) counts as not visible yet."
    )
    expires: bool = Field(default=True, description="false: the provider never expires a batch (Azure).")


class ProviderConfig(Section):
    """A provider's facts. Everything OpenAI-shaped is the adapter `openai` plus one of these."""

    name: str = Field(description="Part of every request key.")
    adapter: str = Field(default="openai", description="Chosen by name from the registry of adapters.")
    base_url: str | None = Field(default=None, description="null for `local`: the embedded server's own port.")
    api_key_env: str | None = Field(default=None, description="Name of the variable that holds the key; never the key.")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with every call; part of the request key.")
    headers_env: dict[str, str] = Field(
        default_factory=dict,
        description="Header to the name of the variable that holds its value, for headers that are secret.",
    )
    allow_http: bool = Field(
        default=False, description="A key may go over plain http beyond this machine, where all on the way can read it."
    )
    key_origins: list[str] = Field(
        default_factory=list,
        description="In a shipped file: further addresses that api_key_env belongs to; * stands for a part of the host. "
        "Anywhere else it has no effect.",
    )
    completion_window: str = Field(default="24h", description="How long the provider may take, as it spells it.")
    endpoints: list[Endpoint] = Field(
        default=["chat", "responses", "embeddings"], description="Those that it takes in batches."
    )
    windows: list[str] = Field(
        default_factory=list,
        description="Windows that it accepts: one (`24h`) or a range of them (`24h..7d`). Empty: not known.",
    )
    refuses: list[str] = Field(
        default_factory=list,
        description="Parameters that no request in its batches may have, unless they have the API's default; "
        "`json_schema`: a JSON Schema in the request.",
    )
    endpoint_paths: dict[Endpoint, str] = Field(
        default_factory=dict, description="Where the provider's URL paths differ; {model} stands for the model's id."
    )
    max_tokens_param: dict[Endpoint, str] = Field(
        default={"chat": "max_completion_tokens", "responses": "max_output_tokens"},
        description="The body's name for model.max_output_tokens.",
    )
    strict_schema: bool = Field(default=True, description="Accepts response_format json_schema with strict: true.")
    token_factor: PositiveFloat | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Multiplies counted tokens where the model has a tokenizer of its own and model.token_factor is not set.",
    )
    prices: str | None = Field(default=None, description="The provider's id in genai-prices.")
    batch_factor: float | None = Field(
        default=None, ge=0, le=1, description="Batch price over standard price, where no batch price is listed."
    )
    limits: ProviderLimits = ProviderLimits()
    capabilities: Capabilities = Capabilities()
    poll_seconds: PositiveFloat = Field(default=30.0, description="How often it is asked how its batches are.")
    engine: EngineConfig | None = Field(default=None, description="Only for the embedded server.")
    checked: str | None = Field(default=None, description="Day on which these facts were checked.")
    source: list[str] = Field(default_factory=list, description="Where the facts come from.")


class Message(Section):
    """One message of the prompt. `content` is a template, or `file:PATH` relative to the config that names it."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="The role of the message.")
    content: str = Field(description="The template.")


class PromptConfig(Section):
    """The template. `{column}` placeholders (`format`) or sandboxed Jinja (`jinja`)."""

    engine: Literal["format", "jinja"] = Field(
        default="format", description="{column} placeholders, or Jinja in its sandbox."
    )
    messages: list[Message] = Field(default_factory=list)
    input: str | None = Field(default=None, description="For the embeddings endpoint: the text to embed.")


class DatabaseConfig(Section):
    """A database that `data.sql` reads: a file, or a PostgreSQL server whose connection string a variable holds."""

    path: str | None = Field(default=None, description="A SQLite or DuckDB file, relative to the experiment.")
    dsn_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None, description="PostgreSQL: name of the variable that holds the connection string; never the string."
    )

    @model_validator(mode="after")
    def _one_place(self) -> DatabaseConfig:
        if (self.path is None) == (self.dsn_env is None):
            raise ValueError("give exactly one of path, dsn_env")
        return self


class DataConfig(Section):
    """Where the rows come from: exactly one of path, sql, rows, run, dsn_env."""

    path: str | list[str] | None = Field(
        default=None,
        description="csv, tsv, jsonl, json, parquet, xlsx, sqlite, duckdb; globs, .gz, https, s3, hf://datasets/…; relative to "
        "the experiment.",
    )
    format: Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx", "database"] | None = Field(
        default=None, description="null: by the file's ending."
    )
    options: dict[str, JsonValue] = Field(default_factory=dict, description="For DuckDB's reader, e.g. {delim: ';'}.")
    table: str | None = Field(
        default=None, description="Table or view of the database that path or dsn_env names; null: the only one."
    )
    dsn_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = Field(
        default=None, description="PostgreSQL: name of the variable that holds the connection string; never the string."
    )
    sql: str | None = Field(default=None, description="One DuckDB SELECT, with an ORDER BY where there is no id.")
    databases: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str | DatabaseConfig] = Field(
        default_factory=dict,
        description="Databases whose tables sql reads as name.table: a SQLite or DuckDB file, or {dsn_env: VARIABLE}.",
    )
    rows: list[dict[str, JsonValue]] | None = Field(default=None, description="The rows themselves.")
    run: str | None = Field(default=None, description="Run id, plan id or experiment name whose records are the rows.")
    id: str | None = Field(default=None, description="Column that names a row; null: the 0-based position.")
    where: str | None = Field(default=None, description="A DuckDB condition over the columns.")
    limit: PositiveInt | None = Field(default=None, description="The first rows of what `where` and `sample` leave.")
    sample: PositiveInt | None = Field(default=None, description="This many rows, chosen by a hash of seed and id.")
    seed: int = Field(default=0, description="Another seed, another sample.")

    @field_validator("rows")
    @classmethod
    def _storable(cls, rows: list[dict[str, JsonValue]] | None) -> list[dict[str, JsonValue]] | None:
        for number, row in enumerate(rows or []):
            for key, value in row.items():
                if _beyond_64_bits(value):
                    raise ValueError(
                        f"row {number}, {key}: an integer of more than 64 bits; quote it to keep every digit"
                    )
        return rows


def _beyond_64_bits(value: JsonValue) -> bool:
    if isinstance(value, dict):
        return any(map(_beyond_64_bits, value.values()))
    if isinstance(value, list):
        return any(map(_beyond_64_bits, value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


class SchemaConfig(Section):
    """The output schema; at most one of fields, pydantic, json_schema. None of them: plain text."""

    fields: dict[str, JsonValue] | None = Field(default=None, description="Name to type, e.g. {label: {enum: [a, b]}}.")
    pydantic: str | None = Field(
        default=None, description="schema.py:Model beside the config, or package.module:Model."
    )
    json_schema: str | None = Field(default=None, description="A JSON Schema file beside the config.")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = Field(
        default="output", description="What the schema is called in the request."
    )
    strict: bool = Field(default=True, description="Send it as a strict schema; false: only validate the answers.")
    send: Literal["auto", "strict", "json_mode", "prompt"] = Field(
        default="auto",
        description="How the schema is given to the model: as a strict schema; the schema in words in the system message, with JSON mode or "
        "without. auto: the first of these that the model takes.",
    )


class BudgetConfig(Section):
    """What may be spent."""

    usd: float | None = Field(default=None, ge=0, description="USD; a plan whose worst case is above it is refused.")
    unknown: Literal["refuse", "allow"] = Field(
        default="refuse", description="What to do with a budget when a price is unknown."
    )
    confirm_usd: float = Field(default=1.0, ge=0, description="`run` asks before it spends more than this.")


class RetryConfig(Section):
    """What is asked again automatically."""

    attempts: PositiveInt = Field(
        default=3, description="Times a row is asked at most: the first time, retries and repairs together."
    )
    repair: bool | NonNegativeInt = Field(
        default=True,
        description="Ask again, with the errors, when an answer does not fit the schema: true: once; a number: so many times.",
    )
    resubmit_usd: float = Field(
        default=100.0,
        ge=0,
        description="A shard of which submissions of unknown fate could cost more than this, together, waits for a person. "
        "At most 1 USD where the input file could not be deleted; 0: always a person.",
    )


class LimitsConfig(Section):
    """Tighter limits than the provider's own, how often to look (null: the provider's), and what a plan may use here."""

    max_requests: PositiveInt | None = Field(default=None, description="Requests in a batch.")
    max_bytes: PositiveInt | None = Field(default=None, description="Bytes in an input file.")
    enqueued_tokens: PositiveInt | None = Field(
        default=None, description="Prompt tokens that may wait at the provider at once."
    )
    enqueued_requests: PositiveInt | None = Field(
        default=None, description="Requests that may wait at the provider at once."
    )
    concurrent_batches: PositiveInt | None = Field(default=None, description="Batches that may be out at once.")
    creations_per_hour: PositiveInt | None = Field(default=None, description="Batches created in an hour.")
    poll_seconds: PositiveFloat | None = Field(default=None, description="How often the provider is asked.")
    settle_seconds: float | None = Field(
        default=None,
        ge=0,
        description="How long a create that shows in no list is waited for before it counts as not happened.",
    )
    metric_seconds: PositiveFloat = Field(
        default=60.0, description="How long one metric may take when the answers are there."
    )
    memory_mb: int = Field(default=768, ge=64, description="MiB that reading the rows, a query or a metric may take.")
    plan_rows: PositiveInt = Field(
        default=5_000_000, description="Rows of a data source, beyond which a plan asks first."
    )
    plan_bytes: PositiveInt = Field(
        default=20_000_000_000,
        description="Bytes that a plan's rows take, beyond which it asks first; so does a plan that needs more than half "
        "of the disk's free space.",
    )
    unpack_factor: PositiveInt = Field(
        default=200,
        description="Times its size that a compressed data file (gzip, zstandard, Parquet, a spreadsheet) may hold, beyond 1 GiB.",
    )


class SweepConfig(Section):
    """What Hydra's grammar can't say. Keys are override keys, values the choices."""

    grid: dict[str, list[JsonValue]] = Field(default_factory=dict, description="Every combination of the values.")
    zip: dict[str, list[JsonValue]] = Field(
        default_factory=dict, description="The first values together, then the second ones, and so on."
    )
    points: list[dict[str, JsonValue]] = Field(default_factory=list, description="Points one by one.")
    exclude: list[dict[str, JsonValue]] = Field(
        default_factory=list, description="Points that hold these values are left out."
    )


class PathsConfig(Section):
    """Where batchling writes."""

    runs: str = Field(
        default="runs", description="Folder of the plans, relative to the project; the variable BATCHLING_RUNS wins."
    )
    mode: Literal["private", "shared"] = Field(
        default="private",
        description="Who may read and write there: private: the user (files 600, folders 700); shared: the folder's group too "
        "(660, 2770).",
    )


class Config(Section):
    """One experiment, composed and resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="Names the experiment and its plans.")
    description: str | None = Field(default=None, description="For people.")
    data: DataConfig
    model: ModelConfig
    provider: ProviderConfig
    prompt: PromptConfig = PromptConfig()
    output_schema: SchemaConfig = Field(default=SchemaConfig(), alias="schema")
    metrics: dict[str, str] = Field(
        default_factory=dict, description="Name to DuckDB expression over output, data, state, cost_usd."
    )
    budget: BudgetConfig = BudgetConfig()
    retry: RetryConfig = RetryConfig()
    limits: LimitsConfig = LimitsConfig()
    tokens: Literal["auto", "off"] = Field(default="auto", description="Count tokens, or not.")
    dedupe: bool = Field(default=True, description="false: equal rows are asked separately.")
    repeats: PositiveInt = Field(default=1, description="How often each row is asked.")
    environment: list[str] = Field(
        default_factory=list, description="Variables that ${oc.env:NAME} may copy into the config. No secrets."
    )
    sweep: SweepConfig | None = None
    paths: PathsConfig = PathsConfig()

    @model_validator(mode="after")
    def _one_source(self) -> Config:
        given = [k for k in ("path", "sql", "rows", "run", "dsn_env") if getattr(self.data, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"data: give exactly one of path, sql, rows, run, dsn_env (got {', '.join(given) or 'none'})"
            )
        if self.data.table is not None and given[0] not in ("path", "dsn_env"):
            raise ValueError(f"data.table: a table of data.path or data.dsn_env, not of data.{given[0]}")
        if self.data.databases and given[0] != "sql":
            raise ValueError(
                f"data.databases: for data.sql, not for data.{given[0]}; of one database: data.path and data.table"
            )
        if self.data.dsn_env is not None and self.data.id is None:
            raise ValueError("data.id: a table of PostgreSQL has no order, so a column must name its rows")
        forms = [k for k in ("fields", "pydantic", "json_schema") if getattr(self.output_schema, k) is not None]
        if len(forms) > 1:
            raise ValueError(f"schema: give at most one of fields, pydantic, json_schema (got {', '.join(forms)})")
        return self


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file that the run was made from, copied into the plan's `source/`. `name` is relative, with forward slashes."""

    name: str
    content: bytes


def _unknown(key: str) -> str | None:
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Spec:
    """One run, frozen: config validated, every file read.

    Attributes:
        config: the validated tree (file references still as written).
        overrides: the overrides that make this point, in Hydra's grammar, as typed.
        root: the experiment's folder; relative data paths start here.
        messages: role and template text of each message, `file:` contents read.
        input: the template for embeddings, `file:` contents read.
        schema_source: a pydantic model class, a JSON Schema dict, or None for plain text.
        fields: the inline `schema.fields`, when that is what there is.
        sources: the files it was made from.
        document: the config as plain JSON values, as it is recorded (no secret in it).
        set_at: where a config key was set, in words; None: not known.
        notes: what a person should know of the config, a sentence each.
    """

    config: Config
    overrides: tuple[str, ...]
    root: Path
    messages: tuple[tuple[str, str], ...]
    input: str | None
    schema_source: Any
    sources: tuple[SourceFile, ...]
    document: dict[str, Any]
    set_at: Callable[[str], str | None] = field(default=_unknown, repr=False, compare=False)
    notes: tuple[str, ...] = ()

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Adds to an error about a config key where that key was set."""
        try:
            yield
        except UsageError as error:
            if error.key is not None and (place := self.set_at(error.key)):
                error.where = f"{error.where} ({place})" if error.where else place
                error.key = None
            raise

    @property
    def endpoint_path(self) -> str:
        """URL path of the endpoint, as the request lines and the batch name it."""
        endpoint = self.config.model.endpoint
        path = self.config.provider.endpoint_paths.get(endpoint, ENDPOINT_PATHS[endpoint])
        return path.replace("{model}", quote(self.config.model.id, safe=""))
