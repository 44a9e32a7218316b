"""A request before any provider's words for it, and what a dialect does with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchling.errors import ConfigError
from batchling.models import Response


@dataclass(frozen=True, slots=True)
class StrictSchema:
    """A schema that the provider is to hold the model to.

    Attributes:
        name: at most 64 characters of `[A-Za-z0-9_-]`.
        document: JSON Schema: every property required, `additionalProperties: false`.
        strict: the provider takes `strict: true` (`provider.strict_schema`).
    """

    name: str
    document: dict[str, Any]
    strict: bool = True


@dataclass(frozen=True, slots=True)
class NeutralRequest:
    """What a run asks, the same for all of its rows.

    Attributes:
        model: the provider's id of it.
        texts: (role, text) in the prompt's order; the role is `system`, `developer`, `user` or `assistant`, or `input` for
            a text to embed. A text is opaque: it goes into the body whole, once, and unchanged, alone or beside other text.
        params: `model.params`, in the provider's own words.
        max_output_tokens: the longest answer; None: not set.
        max_tokens_param: the provider's word for it (`provider.max_tokens_param`); None: it has none.
        schema: what answers must look like; None: nothing is sent.
        json_mode: the provider is asked for JSON, and the prompt says which.
    """

    model: str
    texts: tuple[tuple[str, str], ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    max_output_tokens: int | None = None
    max_tokens_param: str | None = None
    schema: StrictSchema | None = None
    json_mode: bool = False


class Dialect(Protocol):
    """One way of writing bodies. Pure: the same request is the same body, today and in a year.

    Attributes:
        name: names the dialect in errors.
        turns: more messages can be added to a body. Then the list of messages ends every body that `write` makes, so
            that a body is extended before its last `]}` (a repair shows the model its answer that way).
    """

    @property
    def name(self) -> str: ...

    @property
    def turns(self) -> bool: ...

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        """The body. Its properties are sent in the order in which they stand.

        Raises:
            ConfigError: it cannot say this request. The message names the config key.
        """
        ...

    def turn(self, role: str, text: str) -> dict[str, Any]:
        """One more message: `user` or `assistant`. Only asked for where the dialect has turns."""
        ...

    def instructions(self, body: dict[str, Any]) -> list[str]:
        """The texts of the system's messages in a body that `write` made, in order. For a dialect that has turns."""
        ...

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        """The answer that a body is; None when it is none in this dialect, an error for example. Never raises.

        Args:
            custom_id: goes into the response.
            status: the HTTP status that stood beside the body, in the 200s or not known.
            body: JSON from a server: any property may be missing, null or of another type.
        """
        ...


MAX_TOKENS = frozenset({"max_tokens", "max_completion_tokens", "max_output_tokens"})
"""Names of the length limit, of which a body may have one."""


def checked_params(request: NeutralRequest, reserved: frozenset[str]) -> dict[str, Any]:
    """The parameters that a person set, without those that are not theirs to set.

    Args:
        reserved: properties of the body that batchling writes, or that a batch cannot have.

    Raises:
        ConfigError: one of them is set, or more than one answer is asked for.
    """
    params = dict(request.params)
    for name in sorted(params.keys() & reserved):
        why = "a batch cannot stream" if name.startswith("stream") else "batchling sets it"
        raise ConfigError(f"model.params.{name}: {why}; remove it")
    if params.get("n", 1) != 1:
        raise ConfigError(
            "model.params.n: a request has one answer", next_command="ask several times with `repeats: N`"
        )
    return params


def length_limit(request: NeutralRequest, endpoint: str) -> dict[str, Any]:
    """The body's property for `model.max_output_tokens`, if it is set.

    Raises:
        ConfigError: the provider's word for it is not known, or the parameters set it a second time.
    """
    if request.max_output_tokens is None:
        return {}
    name = request.max_tokens_param
    if name is None:
        raise ConfigError(f"provider.max_tokens_param.{endpoint}: unknown, so model.max_output_tokens cannot be sent")
    for other in sorted(request.params.keys() & (MAX_TOKENS | {name})):
        raise ConfigError(f"model.params.{other}: model.max_output_tokens sets the limit; remove one of them")
    return {name: request.max_output_tokens}


def system_texts(messages: list[dict[str, Any]]) -> list[str]:
    """What the system says in a list of messages with a role and a content."""
    return [str(m["content"]) for m in messages if m["role"] in ("system", "developer")]


def conversation(request: NeutralRequest) -> tuple[list[str], list[tuple[str, str]]]:
    """The instructions and the turns, for an API that keeps the two apart.

    Raises:
        ConfigError: there is no turn, or instructions stand between two of them.
    """
    system: list[str] = []
    turns: list[tuple[str, str]] = []
    for role, text in request.texts:
        if role not in ("system", "developer"):
            turns.append((role, text))
        elif turns:
            raise ConfigError(
                f"prompt.messages: a {role} message stands after the first turn, and this API has instructions only before "
                "the conversation; move it to the front"
            )
        else:
            system.append(text)
    if not turns:
        raise ConfigError("prompt.messages: this API wants a message from the user beside the instructions")
    return system, turns


def unsaid(params: dict[str, Any], names: Mapping[str, Any], dialect: str) -> None:
    """Takes away the parameters that an API has no word for, where their value asks for nothing.

    Args:
        names: such a parameter → the value that asks for nothing, beside null.

    Raises:
        ConfigError: one of them asks for something.
    """
    for name, nothing in names.items():
        if name in params:
            value = params.pop(name)
            if value is not None and value != nothing:
                raise ConfigError(
                    f"model.params.{name}: the {dialect} API has nothing like it; remove it", key=f"model.params.{name}"
                )


def in_other_words(params: dict[str, Any], name: str, theirs: str, say: Callable[[Any], Any] | None = None) -> None:
    """Gives a parameter the API's own name, and its value the API's form, in its place.

    Args:
        name: as batchling has it; where it is not set, nothing happens.
        theirs: the API's.
        say: the value in the API's form.

    Raises:
        ConfigError: both names are set.
    """
    if name not in params:
        return
    if theirs != name and theirs in params:
        raise ConfigError(f"model.params.{name}: {theirs} sets the same; remove one of them")
    renamed = {theirs if key == name else key: value for key, value in params.items()}
    if say is not None:
        renamed[theirs] = say(renamed[theirs])
    params.clear()
    params.update(renamed)
