"""The gate between a key and an origin: the one place where a key is read from the environment.

Whatever sends a key (a provider's client, the upstream of the `http` engine) gets it from `Gate.admit`, which asks
`batchling.trust` whether this variable may go to that address, and the user where nobody knows yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from batchling import trust
from batchling.errors import ConfigError, ProviderError, RefusedError
from batchling.spec import EngineConfig, ProviderConfig
from batchling.trust import Facts, Origin, Recipient, Verdict

Ask = Callable[[str], bool]
"""(which variables go where, in words) → whether the user wants that."""


@dataclass(frozen=True, slots=True)
class Question:
    """A pair that is not known yet, put into words."""

    variables: tuple[str, ...]
    origin: Origin

    def __str__(self) -> str:
        return f"{' and '.join(self.variables)} to {self.origin}"


class Gate:
    """Lets a key out, or not.

    Args:
        hosts: hosts that the user named for this command (`--trust-host`): `HOST`, `HOST:PORT` or a URL.
        ask: asks the user about a pair that is not known; a yes is remembered. None: nobody can be asked.
        tell: hears, once each, which variable goes to which host.
        environ: where keys are looked up; None: the process's environment.
        doctor: only to look whether a provider answers, which is never asked for and never worth a new pair.
        plans: plans that somebody else made are taken as the user's own (`--trust`).
        ask_plan: asks the user whether to take such a plan, with what it does in words. None: nobody can be asked.

    Raises:
        ConfigError: one of `hosts` is no host.
    """

    def __init__(
        self,
        *,
        hosts: Iterable[str] = (),
        ask: Ask | None = None,
        tell: Callable[[Recipient], None] | None = None,
        environ: Mapping[str, str] | None = None,
        doctor: bool = False,
        plans: bool = False,
        ask_plan: Ask | None = None,
    ):
        self.plans = plans
        self.ask_plan = ask_plan
        self.hosts = frozenset(trust.trusted_host(text) for text in hosts)
        self._ask = ask
        self._tell = tell
        self._environ = os.environ if environ is None else environ
        self._doctor = doctor
        self._told: set[Recipient] = set()
        self._agreed: set[tuple[str, Origin]] = set()

    def verdict(self, variable: str, origin: Origin, *, compatible: bool = False) -> Verdict:
        """What is known of a pair, without asking anybody."""
        if (variable, origin) in self._agreed:
            return "yes"
        return trust.decide(variable, origin, self._facts(), compatible=compatible, doctor=self._doctor)

    def admit(
        self,
        config: ProviderConfig,
        *,
        base_url: str | None = None,
        compatible: bool | None = None,
        where: str | None = None,
    ) -> dict[str, str]:
        """The values of the variables that a provider's calls carry, by name.

        Args:
            base_url: takes the place of `config.base_url`.
            compatible: the provider is the shipped `compatible`; None: by its name.
            where: where its address was set, for the messages.

        Raises:
            ConfigError: the address is no plain URL, or plain http beyond this machine.
            ProviderError: a variable is not set, or holds what is no key.
            RefusedError: the pair was not confirmed. Nothing has left.
        """
        wanted = trust.recipients(config, base_url=base_url)
        if not wanted:
            return {}
        _, url, key = wanted[0]
        variables = [variable for variable, _, _ in wanted]
        if config.adapter == "openai" and key == "provider.base_url":
            extra = trust.EXTRA_VARIABLES.get(config.name, ())
            variables += [name for name in extra if self._environ.get(name, "").strip()]
        return self.release(
            variables,
            url,
            who=f"provider {config.name!r}",
            key=key,
            compatible=config.name == trust.COMPATIBLE if compatible is None else compatible,
            allow_http=config.allow_http,
            where=where,
        )

    def upstream(self, config: EngineConfig, *, allow_http: bool = False, where: str | None = None) -> str:
        """The key of the `http` engine's upstream. Errors: see `admit`."""
        assert config.api_key_env is not None
        values = self.release(
            [config.api_key_env],
            config.upstream or "",
            who="the upstream",
            key="provider.engine.upstream",
            allow_http=allow_http,
            where=where,
        )
        return values[config.api_key_env]

    def release(
        self,
        variables: Iterable[str],
        url: str,
        *,
        who: str,
        key: str,
        compatible: bool = False,
        allow_http: bool = False,
        where: str | None = None,
    ) -> dict[str, str]:
        """`admit`, for variables and an address that no provider's config names. Arguments and errors: see there."""
        variables = tuple(dict.fromkeys(variables))
        origin = Origin.of(url, key=key)
        values = {variable: self._value(variable, who) for variable in variables}
        if origin.scheme == "http" and not origin.loopback and not allow_http:
            raise ConfigError(
                f"{key}: {', '.join(variables)} would go to {origin} unencrypted, where anyone on the way can read it",
                where=where,
                next_command="use https; or, on a network that you trust, set provider.allow_http=true",
                key=key,
            )
        unknown = tuple(v for v in variables if self.verdict(v, origin, compatible=compatible) != "yes")
        if unknown:
            self._confirm(Question(unknown, origin), where)
        for variable in variables:
            recipient = Recipient(variable, str(origin))
            if self._tell is not None and recipient not in self._told:
                self._tell(recipient)
            self._told.add(recipient)
        return values

    def _value(self, variable: str, who: str) -> str:
        value = self._environ.get(variable, "").strip()
        if not value:
            raise ProviderError(
                f"{who} needs a key, and the variable {variable} is not set",
                next_command=f"export {variable}=… (or run on the embedded server, without a key: provider=local)",
            )
        check(variable, value)
        return value

    def _confirm(self, question: Question, where: str | None) -> None:
        origin = question.origin
        if self._doctor:
            raise RefusedError(f"not asked: only this project sends {question}")
        named = f"  (named by {where})" if where else ""
        if self._ask is not None and self._ask(f"{question}{named}"):
            self._remember(question)
            return
        host = origin.host if ":" not in origin.host else f"[{origin.host}]"
        raise RefusedError(
            f"not confirmed: sending {question}, which neither a shipped provider file nor you have named; nothing was sent",
            where=where,
            next_command=f"if that is the host you mean, answer yes on a terminal, or add --trust-host {host}:{origin.port}",
        )

    def _remember(self, question: Question) -> None:
        from batchling.consent import Consent

        pairs = [(variable, question.origin) for variable in question.variables]
        self._agreed.update(pairs)
        try:
            Consent().remember(pairs)
        except OSError as error:
            # The yes holds for this command; the next one asks again.
            import logging

            logging.getLogger(__name__).warning("the answer could not be saved: %s", error.strerror)

    def _facts(self) -> Facts:
        from batchling import shipped
        from batchling.consent import Consent, user_folder

        return Facts(
            claims=shipped.claims(),
            environment=named_by(self._environ),
            remembered=Consent(user_folder(self._environ)).pairs(),
            hosts=self.hosts,
        )


def named_by(environ: Mapping[str, str]) -> dict[str, Origin]:
    """Variable → the origin that the user's own environment names for it.

    Raises:
        ConfigError: it names no plain URL.
    """
    from batchling import shipped

    found: dict[str, Origin] = {}
    for provider, variable in trust.BASE_URL_VARIABLES.items():
        if url := environ.get(variable, "").strip():
            origin = Origin.of(url, key=variable)
            found.update((name, origin) for name in shipped.key_variables(provider))
    return found


def check(variable: str, value: str) -> None:
    """Refuses what cannot be a key before it is put into a header, where it would break the request or be repeated.

    Raises:
        ProviderError: the value is not one line of printable ASCII. It is not repeated.
    """
    lines = value.splitlines()
    if len(lines) > 1:
        raise ProviderError(
            f"the variable {variable} holds {len(lines)} lines, but a key is one line",
            next_command=f"set {variable} to the key alone",
        )
    for place, character in enumerate(value, 1):
        if not " " <= character <= "~":
            kind = "a control character" if ord(character) < 0xA0 else "a character beyond ASCII"
            raise ProviderError(
                f"the variable {variable} holds {kind} (U+{ord(character):04X}, character {place} of {len(value)}), "
                "but a key is one line of printable ASCII",
                next_command=f"set {variable} to the key alone",
            )
