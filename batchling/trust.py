"""Which variable may be sent to which origin. Facts in, a verdict out; nothing is read or asked here.

A key belongs to the origins that the shipped provider files name for its variable, or that the user's own environment
names. Any other pair of a variable and an origin needs a person's yes, whoever wrote the URL: a cloned project's config,
an override that was copied from somewhere, a plan that somebody else made. `batchling.providers.gate` gathers the facts
and is the one place where a key is read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from batchling.errors import ConfigError

if TYPE_CHECKING:  # `batchling status` starts without pydantic
    from batchling.spec import ProviderConfig

Verdict = Literal["yes", "ask", "no"]

COMPATIBLE = "compatible"
"""The shipped provider for a server of one's own: on loopback any variable may be named together with it."""

BASE_URL_VARIABLES: Mapping[str, str] = {"openai": "OPENAI_BASE_URL"}
"""Provider → the variable by which its official client is told another address (openai-python, `OpenAI.__init__`)."""

EXTRA_VARIABLES: Mapping[str, tuple[str, ...]] = {"openai": ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")}
"""Provider → variables that its official client sends as headers along with the key, where they are set."""

_DEFAULT_PORTS = {"http": 80, "https": 443}

# Deliberately narrow: a URL that two parsers could read differently (a backslash, a fragment, an `@`, spaces, letters
# beyond ASCII in the host) is refused, so that the origin that was judged is the one that is connected to.
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9._-]*[a-z0-9.])?|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?",
    re.IGNORECASE,
)
_HOST = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
)


@dataclass(frozen=True, slots=True, order=True)
class Origin:
    """Scheme, host and port: what a key is sent to. The host is in lower case, IPv6 without brackets."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str, *, key: str = "provider.base_url") -> Origin:
        """The origin of an address that gets a key.

        Args:
            key: the config key that the address stands under, for the message.

        Raises:
            ConfigError: it is not a plain http(s) URL. What stands before an `@` or after a `?` is not repeated.
        """
        found = _ADDRESS.fullmatch(url)
        port = int(found["port"]) if found and found["port"] else 0
        if found is None or port > 65_535:
            raise ConfigError(
                f"{key}: {problem_of(url) or 'is not a plain http or https URL'}, got {shown(url)}", key=key
            )
        scheme = found["scheme"].lower()
        return cls(scheme, _host(found["host"]), port or _DEFAULT_PORTS[scheme])

    @property
    def loopback(self) -> bool:
        """Whether nothing beyond this machine is reached."""
        return is_loopback(self.host)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def _host(text: str) -> str:
    host = text.lower().strip("[]").rstrip(".")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address can only be reached from this machine.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("localhost.example.com")
    (True, True, False)
    """
    host = (host or "").lower().strip("[]").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def problem_of(url: str) -> str | None:
    """Why an address may not get a key: what in it could be a secret, or be read differently. None: nothing."""
    head, _, _ = url.partition("?")
    if "@" in head.partition("://")[2].partition("/")[0].partition("#")[0] or "\\" in url:
        return "holds a user name or password; name the variable that holds the key instead (provider.api_key_env)"
    if "?" in url:
        return "holds a query, which may be a key; a header may be named instead (provider.headers_env)"
    if "#" in url:
        return "holds a fragment"
    return None


def shown(url: str) -> str:
    """An address as it may be repeated: without user name, password, query and fragment."""
    scheme, mark, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if not mark:
        return repr(url.partition("?")[0].partition("#")[0].rpartition("@")[2][:200])
    authority = authority.partition("?")[0].partition("#")[0]
    path = path.partition("?")[0].partition("#")[0]
    return repr(f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"[:200])


@dataclass(frozen=True, slots=True)
class Claims:
    """What the shipped provider files say: variable → the URLs it belongs to (`*` stands for a part of the host's name)."""

    by_variable: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def claimed(self, variable: str) -> bool:
        """Some vendor's variable, and not one that a project made up."""
        return variable in self.by_variable

    def covers(self, variable: str, origin: Origin) -> bool:
        return any(_covers(pattern, origin) for pattern in self.by_variable.get(variable, ()))


def _covers(pattern: str, origin: Origin) -> bool:
    parts = urlsplit(pattern)
    if parts.scheme != origin.scheme or (parts.port or _DEFAULT_PORTS[parts.scheme]) != origin.port:
        return False
    # One label at most: `*.openai.azure.com` is no `a.b.openai.azure.com`, and never `evil.com/.openai.azure.com`.
    host = re.escape((parts.hostname or "").lower()).replace(r"\*", "[a-z0-9-]+")
    return re.fullmatch(host, origin.host) is not None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a pair is judged.

    Attributes:
        claims: what the shipped files say; never a project's.
        environment: variable → the origin that the user's own environment names for it.
        remembered: pairs that the user said yes to.
        hosts: hosts that were named with `--trust-host`, each with a port or for all ports (None).
    """

    claims: Claims = Claims()
    environment: Mapping[str, Origin] = field(default_factory=dict)
    remembered: frozenset[tuple[str, Origin]] = frozenset()
    hosts: frozenset[tuple[str, int | None]] = frozenset()


def decide(variable: str, origin: Origin, facts: Facts, *, compatible: bool = False, doctor: bool = False) -> Verdict:
    """Whether a variable's value may be sent to an origin.

    Args:
        variable: its name.
        compatible: it is named together with the shipped provider `compatible`.
        doctor: only `doctor` wants to: it never asks, and sends nothing that only a project's file names, on loopback
            neither.
    """
    if facts.claims.covers(variable, origin) or facts.environment.get(variable) == origin:
        return "yes"
    if (variable, origin) in facts.remembered:
        return "yes"
    if (origin.host, origin.port) in facts.hosts or (origin.host, None) in facts.hosts:
        return "yes"
    if doctor:
        return "no"
    if origin.loopback and (compatible or not facts.claims.claimed(variable)):
        return "yes"
    return "ask"


def trusted_host(text: str) -> tuple[str, int | None]:
    """What `--trust-host` names: `HOST`, `HOST:PORT`, or a URL of it.

    >>> trusted_host("llm.example.com"), trusted_host("https://llm.example.com/v1"), trusted_host("[::1]:80")
    (('llm.example.com', None), ('llm.example.com', 443), ('::1', 80))
    """
    if "://" in text:
        origin = Origin.of(text, key="--trust-host")
        return origin.host, origin.port
    found = _HOST.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port or 0) > 65_535:
        raise ConfigError(f"--trust-host: expected HOST or HOST:PORT, got {shown(text)}")
    return _host(found["host"]), port


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who gets a variable's value: `host` is scheme, host and port."""

    variable: str
    host: str


def recipients(config: ProviderConfig, *, base_url: str | None = None) -> tuple[tuple[str, str, str], ...]:
    """(variable, address, config key of the address) of everything secret that calls to a provider carry.

    Args:
        base_url: takes the place of `config.base_url`.
    """
    engine = config.engine
    if engine is not None and config.base_url is None:
        if engine.kind == "http" and engine.api_key_env and engine.upstream:
            return ((engine.api_key_env, engine.upstream, "provider.engine.upstream"),)
        return ()
    url = base_url or config.base_url
    return () if not url else _carried(url, config.api_key_env, config.headers_env)


def recorded(provider: Mapping[str, Any]) -> tuple[Recipient, ...]:
    """Who gets what, by the `provider` section of a config as plan.json holds it; it may be anybody's."""
    url, engine = provider.get("base_url"), provider.get("engine")
    if engine and not url:
        named = engine.get("api_key_env") if engine.get("kind") == "http" else None
        found = _carried(engine.get("upstream") or "", named, {})
    else:
        found = _carried(url or "", provider.get("api_key_env"), provider.get("headers_env") or {})
    return tuple(Recipient(variable, _place(address)) for variable, address, _ in found)


def _carried(url: str, key: str | None, headers: Mapping[str, str]) -> tuple[tuple[str, str, str], ...]:
    names = [key, *(headers[name] for name in sorted(headers))]
    return tuple((name, url, "provider.base_url") for name in dict.fromkeys(names) if name)


def _place(address: str) -> str:
    try:
        return str(Origin.of(address))
    except ConfigError:
        return shown(address)
