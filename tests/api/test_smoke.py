"""`doctor --provider X --spend USD`: what it finds at a provider that behaves, and at ones that do not; what it may cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchling.cli import main
from tests.servers.batches import BatchServer, Ending, answered, failed
from tests.servers.scripted import Request, Wire, refuse, reset
from tests.workbench import KEY, Hands, hands  # noqa: F401 (a fixture)

FILES = {
    "conf/provider/mine.yaml": """\
# Ours.
defaults: [compatible, _self_]
name: mine
base_url: {url}
api_key_env: SMOKE_KEY
poll_seconds: 5
""",
    "conf/model/ours.yaml": """\
# Ours.
defaults:
  - override /provider@_global_.provider: mine
id: ours-1
price: {{input: 1.0, output: 2.0}}
""",
    "conf/model/dearer.yaml": """\
# Ours.
defaults:
  - override /provider@_global_.provider: mine
id: ours-2
price: {{input: 100.0, output: 200.0}}
""",
}

Look = Callable[..., tuple[int, dict[str, Any]]]


def by_body(request: dict[str, Any]) -> Any:
    """A row without messages is refused in the error file, as providers do."""
    if "messages" not in request["body"]:
        return failed(request, "invalid_request", "messages are missing")
    return answered(request, "one")


@pytest.fixture
def server() -> Any:
    with BatchServer() as server:
        server.row = by_body
        yield server


@pytest.fixture
def look(tmp_path: Path, server: BatchServer, hands: Hands, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Look:  # noqa: F811
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(url=server.url))
    (tmp_path / "experiments").mkdir()
    monkeypatch.delenv("BATCHLING_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOKE_KEY", KEY)

    def run(*arguments: str, spend: str = "0.01") -> tuple[int, dict[str, Any]]:
        code = main(["doctor", "--provider", "mine", "--spend", spend, *arguments])
        written = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("smoke-mine-*.json"))]
        assert not any(KEY in path.read_text() for path in tmp_path.glob("smoke-*.json"))
        return code, written[-1] if written else {}

    return run


def test_a_provider_that_behaves(look: Look, server: BatchServer, tmp_path: Path, capfd: Any) -> None:
    code, report = look()
    found = report["findings"]
    assert code == 0 and report["over"] and report["model"] == "ours-1", "the cheapest"
    assert found["a new batch is found by its id at once"] is True
    assert found["a list shows a new batch"]["position"] == 0
    assert found["a list shows our metadata"] is True and found["a list shows the input file's id"] is True
    assert found["a deleted input file makes a create fail"] is True
    assert found["it ended"]["as"] == "completed" and found["it ended"]["counts"] == {
        "total": 3,
        "completed": 2,
        "failed": 1,
    }
    assert found["rows that were answered"] == 2 and found["the row that cannot be answered is in"] == "error file"
    assert found["error file"]["shapes"] == ["custom_id:text error{code,message} id:text response:null"]
    assert [each["state"] for each in report["submissions"]] == ["created", "refused"]
    assert server.creates == 1 and len(server.requests("POST", "/v1/batches")) == 2
    shown = capfd.readouterr()
    assert "a deleted input file makes a create fail: yes" in shown.out and "smoke-mine-" in shown.err
    assert not list(tmp_path.glob("runs/*/plan.json"))


def test_a_provider_that_takes_a_deleted_file_is_found_out_and_its_batch_cancelled(
    look: Look, server: BatchServer
) -> None:
    def keeps(request: Request) -> Wire:
        kept = dict(server.files)
        reply = server.normal(request)
        server.files.update(kept)
        return reply

    server.on("DELETE", "/v1/files/*", keeps)
    server.endings = [Ending(), Ending(statuses=("validating", *["in_progress"] * 500))]
    code, report = look()
    assert code == 0 and report["findings"]["a deleted input file makes a create fail"] is False
    assert [each["state"] for each in report["submissions"]] == ["created", "created"]
    assert len(server.requests("POST", "/v1/batches/*/cancel")) == 1


def test_a_list_without_our_marks(look: Look, server: BatchServer) -> None:
    server.show = lambda view: {**view, "metadata": None}
    found = look()[1]["findings"]
    assert found["a list shows our metadata"] is False and found["a list shows the input file's id"] is True


def test_a_create_whose_answer_is_lost_is_looked_for_and_never_sent_again(look: Look, server: BatchServer) -> None:
    server.on("POST", "/v1/batches", server.lost(reset()), server.normal)
    code, report = look()
    assert code == 0 and report["submissions"][0]["state"] == "created" and server.creates == 1
    server.on("POST", "/v1/batches", reset())
    code, report = look()
    assert code == 75 and [each["state"] for each in report["submissions"]] == ["unknown"]
    assert len(server.requests("POST", "/v1/batches")) == 3


def test_the_intent_is_on_disk_before_the_create_leaves(look: Look, server: BatchServer, tmp_path: Path) -> None:
    seen = []

    def create(request: Request) -> Wire:
        (path,) = tmp_path.glob("smoke-mine-*.json")
        seen.append([each["state"] for each in json.loads(path.read_text())["submissions"]])
        return refuse(400, "invalid_request", "no")(request)

    server.on("POST", "/v1/batches", create)
    code, report = look()
    assert code == 75 and seen == [["intent"]] and report["submissions"][0]["state"] == "refused"


@pytest.mark.parametrize(
    ("arguments", "spend", "code"),
    [
        ([], "0.00001", 4),
        (["--model", "dearer"], "0.01", 4),
        (["--model", "no-file-and-no-price"], "0.01", 4),
    ],
)
def test_what_could_cost_more_or_an_unknown_amount_is_not_bought(
    look: Look, server: BatchServer, arguments: list[str], spend: str, code: int
) -> None:
    assert look(*arguments, spend=spend) == (code, {})
    assert server.log == []


def test_a_batch_that_does_not_end_is_said_to_be_out(look: Look, server: BatchServer, capfd: Any) -> None:
    server.endings = [Ending(statuses=tuple(["in_progress"] * 1000))]
    code, report = look("--wait", "2")
    assert code == 75 and not report["over"] and "is still out" in report["findings"]["it ended"]
    assert "nothing will be sent again" in capfd.readouterr().err


@pytest.mark.parametrize("arguments", [["--provider", "mine"], ["--spend", "1"], ["--model", "ours"]])
def test_the_options_go_together(look: Look, arguments: list[str]) -> None:
    assert main(["doctor", *arguments]) == 2
