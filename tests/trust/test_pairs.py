"""Who may get which variable: facts in, a verdict out."""

from __future__ import annotations

import pytest
import yaml

from batchling import shipped
from batchling.errors import ConfigError
from batchling.trust import Claims, Facts, Origin, decide, is_loopback, shown, trusted_host

FACTS = Facts(claims=shipped.claims())


@pytest.mark.parametrize(
    ("variable", "url", "verdict"),
    [
        ("OPENAI_API_KEY", "https://api.openai.com/v1", "yes"),
        ("OPENAI_API_KEY", "https://API.OpenAI.com:443/v1", "yes"),
        ("OPENAI_API_KEY", "https://api.openai.com./v1", "yes"),
        ("OPENAI_API_KEY", "https://api.openai.com:8443/v1", "ask"),
        ("OPENAI_API_KEY", "http://api.openai.com/v1", "ask"),
        ("OPENAI_API_KEY", "https://api.openai.com.evil.example/v1", "ask"),
        ("OPENAI_API_KEY", "https://evil.example/api.openai.com/v1", "ask"),
        ("OPENAI_API_KEY", "https://api.groq.com/openai/v1", "ask"),
        ("OPENAI_API_KEY", "http://127.0.0.1:8000/v1", "ask"),
        ("GROQ_API_KEY", "https://api.groq.com/openai/v1", "yes"),
        ("GROQ_API_KEY", "https://api.openai.com/v1", "ask"),
        ("AZURE_OPENAI_API_KEY", "https://mine.openai.azure.com/openai/v1/", "yes"),
        ("AZURE_OPENAI_API_KEY", "https://mine.services.ai.azure.com/openai/v1/", "yes"),
        ("AZURE_OPENAI_API_KEY", "https://a.b.openai.azure.com/openai/v1/", "ask"),
        ("AZURE_OPENAI_API_KEY", "https://openai.azure.com/openai/v1/", "ask"),
        ("AZURE_OPENAI_API_KEY", "https://mine.openai.azure.com.evil.example/", "ask"),
        ("AZURE_OPENAI_API_KEY", "http://mine.openai.azure.com/openai/v1/", "ask"),
        ("OPENAI_ORG_ID", "https://api.openai.com/v1", "yes"),
        ("OPENAI_ORG_ID", "http://127.0.0.1:1/v1", "ask"),
        ("MINE_API_KEY", "http://127.0.0.1:8000/v1", "yes"),
        ("MINE_API_KEY", "http://[::1]:8000/v1", "yes"),
        ("MINE_API_KEY", "http://localhost:8000/v1", "yes"),
        ("MINE_API_KEY", "https://localhost.evil.example/v1", "ask"),
        ("MINE_API_KEY", "https://llm.example.com/v1", "ask"),
        ("MINE_API_KEY", "http://0.0.0.0:80/v1", "ask"),
    ],
)
def test_a_key_belongs_to_what_the_shipped_files_name(variable: str, url: str, verdict: str) -> None:
    assert decide(variable, Origin.of(url), FACTS) == verdict


def test_on_loopback_any_variable_may_be_named_with_compatible_and_doctor_sends_none() -> None:
    here = Origin.of("http://127.0.0.1:8000/v1")
    assert decide("OPENAI_API_KEY", here, FACTS, compatible=True) == "yes"
    assert decide("OPENAI_API_KEY", Origin.of("https://llm.example.com"), FACTS, compatible=True) == "ask"
    for variable in ("OPENAI_API_KEY", "MINE_API_KEY"):
        assert decide(variable, here, FACTS, compatible=True, doctor=True) == "no"
    assert decide("OPENAI_API_KEY", Origin.of("https://api.openai.com/v1"), FACTS, doctor=True) == "yes"


def test_a_yes_holds_for_its_variable_scheme_host_and_port_alone() -> None:
    origin = Origin.of("https://llm.example.com/v1")
    facts = Facts(claims=shipped.claims(), remembered=frozenset({("MINE_API_KEY", origin)}))
    assert decide("MINE_API_KEY", origin, facts) == "yes"
    assert decide("MINE_API_KEY", origin, facts, doctor=True) == "yes"
    assert decide("OPENAI_API_KEY", origin, facts) == "ask"
    for other in ("https://llm.example.com:8443", "http://llm.example.com", "https://llm2.example.com"):
        assert decide("MINE_API_KEY", Origin.of(other), facts) == "ask"


def test_a_host_named_for_a_command_is_for_all_its_ports_or_the_one_that_is_said() -> None:
    every = Facts(hosts=frozenset({trusted_host("llm.example.com")}))
    one = Facts(hosts=frozenset({trusted_host("https://llm.example.com:8443/v1")}))
    assert decide("K", Origin.of("https://LLM.example.com:9/v1"), every) == "yes"
    assert decide("K", Origin.of("https://llm.example.com:8443/v1"), one) == "yes"
    assert decide("K", Origin.of("https://llm.example.com/v1"), one) == "ask"


@pytest.mark.parametrize(
    "url",
    [
        "https://user:pw@api.openai.com/v1",
        "https://api.openai.com@evil.example/v1",
        "https://api.openai.com\\@evil.example/v1",
        "https://evil.example\\.api.openai.com/v1",
        "https://api.openai.com/v1?key=abc",
        "https://api.openai.com?.evil.example/v1",
        "https://api.openai.com#@evil.example/v1",
        "https://api.openai.com/v1#x",
        "https://api.open\nai.com/v1",
        "https://api.openai.com /v1",
        " https://api.openai.com/v1",
        "https://api.openai.com%2f@evil.example/v1",
        "https://ａpi.openai.com/v1",
        "https://api。openai.com/v1",
        "https:/api.openai.com/v1",
        "https:///v1",
        "https://:443/v1",
        "https://api.openai.com:99999/v1",
        "ftp://api.openai.com/v1",
        "file:///etc/passwd",
        "api.openai.com/v1",
        "",
    ],
)
def test_an_address_that_two_parsers_could_read_differently_gets_no_key(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Origin.of(url)
    assert "pw" not in str(caught.value) and "abc" not in str(caught.value)


def test_what_is_shown_of_an_address_holds_no_secret() -> None:
    assert shown("https://me:hunter22@host/v1?sig=abc#frag") == "'https://host/v1'"
    assert shown("https://host?key=a/b") == "'https://host/b'" or "key" not in shown("https://host?key=a/b")
    assert shown("me:hunter22@host") == "'host'"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST.", "a.localhost", "::1", "::ffff:127.0.0.1"]
)
def test_loopback_is_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "128.0.0.1", "localhost.example", "127.0.0.1.example", "2130706433", "", None]
)
def test_and_nothing_else_is(host: str | None) -> None:
    assert not is_loopback(host)


def test_every_shipped_provider_with_a_key_and_an_address_claims_it() -> None:
    claims: Claims = shipped.claims()
    for name in ("openai", "groq"):
        url = shipped.default_base_url(name)
        assert url is not None
        assert any(claims.covers(variable, Origin.of(url)) for variable in claims.by_variable), name


def test_no_shipped_variable_belongs_to_the_origin_of_another_vendor() -> None:
    vendors = {}
    for path in sorted((shipped.shipped_conf() / "provider").glob("*.yaml")):
        provider = yaml.safe_load(path.read_text(encoding="utf-8"))
        if provider.get("api_key_env") and str(provider.get("base_url")).startswith("https://"):
            vendors[path.stem] = (provider["api_key_env"], Origin.of(provider["base_url"]))
    assert len(vendors) > 10
    for variable, own in vendors.values():
        for other, origin in vendors.values():
            expected = "yes" if origin == own or other == variable else "ask"
            assert decide(variable, origin, FACTS) == expected, (variable, origin)
