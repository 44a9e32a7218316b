"""`providers` and `models`: what the files of facts say, the project's own among them, and never a key."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from batchling.config import complete, compose
from batchling.config.facts import models, providers
from batchling.config.project import find_project
from tests.cli.conftest import Cli

SECRET = "sk-0123456789abcdefghijklmnopqrstuv"


def own(project: Path, name: str, text: str) -> None:
    path = project / "conf" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_whether_a_key_is_set_is_shown_and_never_its_value(
    cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOONSHOT_API_KEY", SECRET)
    monkeypatch.delenv("ZAI_API_KEY", raising=False)
    for arguments in (["providers"], ["providers", "kimi"], ["providers", "--json"]):
        answer = cli(*arguments)
        assert answer.code == 0 and SECRET not in answer.out + answer.err
    found = {each["choice"]: each for each in cli("providers", "--json").json["providers"]}
    assert (found["kimi"]["key_set"], found["zhipu"]["key_set"], found["local"]["key_set"]) == (True, False, None)
    assert found["kimi"]["facts"]["windows"] == ["12h..7d"] and found["kimi"]["facts"]["batch_factor"] == 0.6
    assert "MOONSHOT_API_KEY (set)" in cli("providers", "kimi").out


def test_a_projects_file_is_listed_and_begins_with_what_it_names(cli: Cli, project: Path) -> None:
    own(
        project,
        "provider/mine.yaml",
        "# Our server.\ndefaults:\n  - compatible\n  - _self_\nname: mine\nbase_url: https://llm.example.com/v1\n"
        "api_key_env: MINE_KEY\nlimits: {max_requests: 7}\n",
    )
    own(
        project,
        "model/ours.yaml",
        "# Ours.\ndefaults:\n  - override /provider@_global_.provider: mine\nid: ours-1\nprice: {input: 1, output: 2}\n",
    )
    own(project, "model/odd.yaml", "- not\n- a mapping\n")
    own(project, "provider/loop.yaml", "defaults: [loop]\nname: loop\nbase_url: https://x/v1\n")
    found = {each["choice"]: each for each in cli("providers", "--json").json["providers"]}
    facts = found["mine"]["facts"]
    assert (found["mine"]["shipped"], facts["limits"]["max_requests"], facts["limits"]["max_bytes"]) == (
        False,
        7,
        98_000_000,
    )
    assert facts["max_tokens_param"] == {"chat": "max_tokens", "responses": "max_output_tokens"}
    assert "loop" in found
    listed = cli("models", "mine", "--json").json["models"]
    assert [(each["choice"], each["id"], each["price_date"]) for each in listed] == [("ours", "ours-1", "model.price")]
    assert listed[0]["usd_per_million_in_batches"] == {"input": 1.0, "output": 2.0, "cached": None}
    assert "ours" in cli("models").out


def test_facts_are_what_composing_gives(project: Path) -> None:
    """The short way to read the files, and Hydra's, agree on everything that ships."""
    where = find_project(project)
    for facts in providers(where):
        if facts.config.base_url is None and facts.choice != "local":
            continue
        assert (
            compose("names", [f"provider={facts.choice}", "schema.fields=null"], project=where).config.provider
            == facts.config
        )
    for each in models(where, "dashscope", today=date(2026, 11, 25)):
        composed = compose("names", [f"model={each.choice}"], project=where).config
        assert (composed.model, composed.provider) == (each.config, each.at)


def test_tables_fit_eighty_columns(cli: Cli, project: Path) -> None:
    for arguments in (["providers"], ["models"]):
        assert max(map(len, cli(*arguments).out.splitlines())) <= 80


def test_a_misspelt_provider_is_answered_with_the_nearest(cli: Cli, project: Path) -> None:
    for command in ("providers", "models"):
        answer = cli(command, "zhipo")
        assert answer.code == 2 and "no provider 'zhipo' (nearest: zhipu)" in answer.err


def test_the_names_are_completed(project: Path) -> None:
    from click.shell_completion import ShellComplete

    from batchling.cli.program import COMPLETE_VARIABLE, NAME, program

    offered = ShellComplete(program, {}, NAME, COMPLETE_VARIABLE).get_completions(["models"], "d")
    assert [item.value for item in offered] == ["dashscope", "deepinfra", "doubleword"]
    assert "provider=zhipu" in complete(["names", "provider=z"], project=find_project(project))
