"""Ways in which a secret gets into a config, and not one of them into a file or onto the screen."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from batchling.config import from_values
from batchling.config.secret import problems
from batchling.errors import ConfigError
from tests.servers.batches import BatchServer
from tests.servers.scripted import reply

from .conftest import CANARIES, CONFIG, Cli, arrived

SECRET = "hunter-" + "pale-horse"  # words: nothing in it looks like a key
KEY = "sk-" + "proj-abcDEF0123456789abcDEF"
CANARY = CANARIES["OPENAI_API_KEY"]
ENCODED = base64.b64encode(CANARY.encode()).decode()

OVERRIDES = [
    f"provider.base_url=https://me:{SECRET}@llm.example.com/v1",
    f"provider.base_url=https://{SECRET}@llm.example.com/v1",
    f"provider.base_url='https://llm.example.com/v1?key={SECRET}'",
    f"provider.base_url='https://llm.example.com/v1?x={SECRET}'",
    f"provider.base_url='https://llm.example.com/v1#{SECRET}'",
    f"provider.base_url=https://llm.example.com/{KEY}/v1",
    f"provider.engine={{kind:http,upstream:'https://me:{SECRET}@llm.example.com/v1'}}",
    f"provider.engine={{kind:http,upstream:'https://llm.example.com/v1?api-version=1&code={SECRET}'}}",
    f"provider.engine={{kind:http,upstream:'https://llm.example.com/v1',api_key_env:{KEY}}}",
    f"+provider.headers.Authorization='Bearer {SECRET}'",
    f"+provider.headers.authorization={SECRET}",
    f"+provider.headers.X-Api-Key={SECRET}",
    f"+provider.headers.api-key={SECRET}",
    f"+provider.headers.Ocp-Apim-Subscription-Key={SECRET}",
    f"+provider.headers.Cookie='session={SECRET}'",
    f"+provider.headers.X-Auth-Token={SECRET}",
    f"+provider.headers.X-Amz-Security-Token={SECRET}",
    f"+provider.headers.Proxy-Authorization='Basic {SECRET}'",
    f"+provider.headers.X-Tenant='Bearer {SECRET}'",
    f"+provider.headers.X-Tenant={KEY}",
    "+provider.headers.X-Tenant='Bearer short'",
    f"+provider.headers_env.X-Api-Key={SECRET}",
    f"provider.api_key_env={SECRET}",
    f"provider.api_key_env={KEY}",
    f"+model.params.api_key={SECRET}",
    f"+model.params.extra.password={SECRET}",
    f"description='use {KEY}'",
    f"description={CANARY}",
    f"description={CANARIES['AWS_SECRET_ACCESS_KEY']}",
    f"description='{ENCODED}'",
    f"description={CANARY.encode().hex()}",
    f"data={{path:'https://me:{SECRET}@files.example.com/x.csv',rows:null}}",
    f"data={{path:'https://{SECRET}@files.example.com/x.csv',rows:null}}",
    f"data={{path:['a.csv','s3://AKID:{SECRET}@bucket/x.csv'],rows:null}}",
    f"data={{sql:\"select * from 'https://me:{SECRET}@h/x.csv'\",rows:null}}",
    f"+data.options.password={SECRET}",
    "description='${oc.env:OPENAI_API_KEY}'",
    "description='${oc.env: OPENAI_API_KEY}'",
    "description='${oc.env:OPENAI_API_KEY,none}'",
    "description='${oc.env:LOCAL_THING}'",
    "description='${oc.decode:${oc.env:LOCAL_THING}}'",
    "description='${oc.env:${name}}'",
    "+provider.headers.X-Tenant='${oc.env:LOCAL_THING}'",
    "provider.base_url='https://${oc.env:LOCAL_THING}/v1'",
    "description='a,${oc.env:LOCAL_THING}'",
    "description='${oc.env:openai_api_key,none}'",
    "description='${oc.env:Local_Thing,none}'",
    f"description='${{oc.env:LOCAL_THING,{KEY}}}'",
    "provider.api_key_env=openai_api_key",
    f"description={CANARY[:14]}",
    f"+model.params.user={CANARY[-14:]}",
    f"+model.params.user={CANARY[:14]}",
    f"name={CANARY}",
    f"model.id={KEY}",
    f"+data.where=\"text <> '{CANARY}'\"",
    f"+data.where=\"text <> '{KEY}'\"",
    f"prompt.messages=[{{role:user,content:'{CANARY} {{text}}'}}]",
    f"prompt.messages=[{{role:user,content:'{KEY} {{text}}'}}]",
    f"data.rows=[{{text:'{CANARY}'}}]",
    f"data.rows=[{{text:'{KEY}'}}]",
    f"data={{path:'https://files.example.com/x.csv#{CANARY}',rows:null}}",
    f"data={{sql:\"select '{CANARY}' as text order by 1\",rows:null}}",
    f"+metrics.m=\"output = '{CANARY}'\"",
    f"+provider.headers.X-Tenant={CANARY}",
    f"+provider.headers.X-Tenant='Digest {SECRET}'",
    f"+provider.headers.X-Pass={SECRET}",
    f"+provider.headers.{CANARY}=x",
    f"+model.params.hf_token={SECRET}",
    f"+model.params.extra.auth={SECRET}",
    f"+model.params.secretKey={SECRET}",
    f"+data.options.s3_secret_access_key={SECRET}",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_THING", SECRET)


def everything(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_secret_in_an_override_is_refused_and_not_repeated(cli: Cli, project: Path, override: str) -> None:
    for command in (("plan", "ask"), ("run", "ask", "--yes"), ("config", "ask")):
        answer = cli(*command, override)
        assert answer.code == 2, answer.err + answer.out
        for secret in (SECRET, KEY[8:], CANARY, CANARIES["AWS_SECRET_ACCESS_KEY"], ENCODED, CANARY.encode().hex()):
            assert secret not in answer.err + answer.out
    assert not (project / "runs").exists()


@pytest.mark.parametrize(
    "text", [o for o in OVERRIDES if o.startswith(("provider.base_url", "+provider.headers")) and CANARY + "=" not in o]
)
def test_a_secret_in_a_file_is_refused_with_its_line(cli: Cli, project: Path, text: str) -> None:
    key, _, value = text.lstrip("+").partition("=")
    _, *parts = key.split(".")
    quoted = value.strip("'")
    nested = f"  {parts[0]}: '{quoted}'" if len(parts) == 1 else f"  {parts[0]}: {{{parts[1]}: '{quoted}'}}"
    (project / "experiments" / "ask" / "config.yaml").write_text(CONFIG + f"provider:\n{nested}\n")
    answer = cli("plan", "ask")
    assert answer.code == 2, answer.out
    assert "experiments/ask/config.yaml" in answer.err
    assert SECRET not in answer.err + answer.out and KEY not in answer.err


def test_a_declared_variable_may_be_copied_and_a_secret_cannot_be_declared(cli: Cli, project: Path) -> None:
    path = project / "experiments" / "ask" / "config.yaml"
    path.write_text(CONFIG + "environment: [LOCAL_THING]\ndescription: ${oc.env:LOCAL_THING}\n")
    answer = cli("config", "ask", "--resolve")
    assert answer.code == 0 and SECRET in answer.out, answer.err
    path.write_text(CONFIG + "environment: [OPENAI_API_KEY]\ndescription: ${oc.env:OPENAI_API_KEY}\n")
    answer = cli("config", "ask", "--resolve")
    assert answer.code == 2 and CANARY not in answer.err + answer.out


def test_the_value_of_a_variable_is_found_in_a_prompt_file_before_anything_is_written(cli: Cli, project: Path) -> None:
    folder = project / "experiments" / "ask"
    (folder / "prompt.md").write_text(f"Say {{text}}. {CANARIES['AWS_SECRET_ACCESS_KEY']}")
    (folder / "config.yaml").write_text(CONFIG.replace('"Which one is {text}?"', "file:prompt.md"))
    answer = cli("run", "ask", "--yes")
    assert answer.code == 2 and "prompt.md holds the value of the variable AWS_SECRET_ACCESS_KEY" in answer.err
    assert CANARIES["AWS_SECRET_ACCESS_KEY"] not in answer.err
    assert not (project / "runs").exists()


def test_ordinary_values_of_such_variables_are_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "password")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/srv/ada/key.json")
    monkeypatch.setenv("AUTH", "none")
    text = "the password is in /srv/ada/key.json, or none"
    document = {
        "name": "x",
        "model": "gpt-5-mini",
        "data": {"rows": [{"a": 1}]},
        "prompt": {"messages": [{"role": "user", "content": text + " {a}"}]},
    }
    assert from_values(document, tmp_path).config.prompt.messages[0].content == text + " {a}"
    monkeypatch.setenv("KEY_VAULT_NAME", "my-company-vault-westeurope-1")
    document["description"] = "half of a name that a variable holds: my-company-vault"
    from_values(document, tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "the password is 1")
    document["description"] = "the password is 1"
    with pytest.raises(ConfigError, match="holds the value of the variable OPENAI_API_KEY"):
        from_values(document, tmp_path)


@pytest.mark.parametrize(
    "parameter", ["max_tokens", "eos_token", "prompt_cache_key", "session_id", "skip_special_tokens", "author", "top_k"]
)
def test_other_parameters_are_parameters(cli: Cli, parameter: str) -> None:
    answer = cli("config", "ask", f"+model.params.extra.{parameter}=acme")
    assert answer.code == 0, answer.err


@pytest.mark.parametrize("header", ["X-Tenant", "OpenAI-Beta", "Idempotency-Key", "HTTP-Referer", "X-Keyboard"])
def test_other_headers_are_headers(cli: Cli, header: str) -> None:
    assert cli("plan", "ask", f"+provider.headers.{header}=acme").code == 0


def test_a_data_urls_query_is_used_to_read_and_cut_from_everything_that_is_written_or_shown(
    cli: Cli, project: Path, server: BatchServer
) -> None:
    server.on("GET", "/rows.csv", reply(b"text\none\ntwo\n"))
    server.on("HEAD", "/rows.csv", reply(b"text\none\ntwo\n"))
    signature = "X-Amz-Signature=" + "0a1b2c3d4e5f60718293"
    url = server.url.replace("/v1", "/rows.csv") + f"?{signature}&part=7"
    config = CONFIG.replace("rows: [{text: one}, {text: two}]", f"path: '{url}'\n  format: csv")
    (project / "experiments" / "ask" / "config.yaml").write_text(config)
    where = ("provider=compatible", f"provider.base_url={server.url}", f"data.path='{url}'")
    for command in (("config", "ask"), ("config", "ask", "--origins"), ("config", "ask", "--resolve")):
        answer = cli(*command, *where)
        assert answer.code == 0 and signature not in answer.out, answer.err
    answer = cli("run", "ask", "--yes", "-v", *where)
    if "httpfs" in answer.err:
        pytest.skip("DuckDB's httpfs extension is not here")
    assert answer.code == 0, answer.err
    assert signature in arrived(server)
    assert signature.encode() not in everything(project / "runs") and signature not in answer.out + answer.err


def test_the_words_of_whoever_could_not_read_a_data_url_do_not_repeat_its_query(cli: Cli, project: Path) -> None:
    url = "http://127.0.0.1:9/rows.csv?X-Amz-Signature=" + "0a1b2c3d4e5f60718293"
    answer = cli("run", "ask", "--yes", "-v", "provider=local", f"data={{path:'{url}',rows:null}}")
    assert answer.code == 2, answer.err
    assert "0a1b2c3d4e5f60718293" not in answer.err + answer.out
    assert os.environ["LOCAL_THING"] not in answer.err


def test_an_address_that_is_not_said_yet_holds_no_secret() -> None:
    """`???` in a file of facts is OmegaConf's word for a value to come, not an address with a query."""
    assert not list(problems({"provider": {"base_url": "???"}}))
    assert list(problems({"provider": {"base_url": "https://h.example.com/v1?k=1"}}))
