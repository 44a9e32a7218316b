"""Counting: exact where the encoding is known, an estimate that says so elsewhere, never in the way."""

from __future__ import annotations

import encodings.idna  # noqa: F401  a codec that is first looked up while sys.path is empty stays unknown for the whole process
import gzip
import hashlib
import pickle
import socket
import sys
from pathlib import Path

import pytest
import tiktoken

from batchling.errors import ConfigError
from batchling.spec import ModelConfig, ProviderConfig
from batchling.tokens import ByteCounter, OffCounter, TiktokenCounter, chat_overhead, counter, schema_tokens, vocabulary
from batchling.tokens.counter import choose
from batchling.tokens.vocabulary import Vocabulary, locate

CONTENT = b"IQ== 0\nIg== 1\n"


@pytest.fixture
def small() -> tiktoken.Encoding:
    """Every byte is a token; `he`, `ll` and `llo` are merged."""
    ranks = {bytes([i]): i for i in range(256)} | {b"he": 256, b"ll": 257, b"llo": 258}
    return tiktoken.Encoding("small", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 259})


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with empty caches."""
    monkeypatch.delenv("DATA_GYM_CACHE_DIR", raising=False)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def openai(model: str, **more: object) -> tuple[ModelConfig, ProviderConfig]:
    return ModelConfig.model_validate({"id": model, **more}), ProviderConfig(name="openai")


def test_texts_are_counted_with_the_encoding(small: tiktoken.Encoding) -> None:
    count = TiktokenCounter(small)
    assert (count.name, count.exact) == ("small", True)
    assert count.count("hello") == 2
    assert count.count_many(["hello", "", "h", "hello hello"]) == [2, 0, 1, 5]


def test_special_tokens_and_lone_surrogates_in_a_text_are_text(small: tiktoken.Encoding) -> None:
    count = TiktokenCounter(small)
    assert count.count("<|endoftext|>") == 13
    assert count.count_many(["<|endoftext|>"]) == [13]
    assert count.count("\ud800") > 0


def test_a_repeated_text_is_encoded_once(small: tiktoken.Encoding) -> None:
    calls: list[str] = []

    class Spy:
        name = "spy"

        def encode_ordinary(self, text: str) -> list[int]:
            calls.append(text)
            return small.encode_ordinary(text)

    count = TiktokenCounter(Spy())  # type: ignore[arg-type]
    assert [count.count("system") for _ in range(3)] == [6, 6, 6]
    assert count.count_many(["system", "x"]) == [6, 1]
    assert calls == ["system", "x"]


def test_a_factor_makes_an_estimate_of_it(small: tiktoken.Encoding) -> None:
    count = TiktokenCounter(small, factor=1.2)
    assert (count.name, count.exact, count.note) == ("small*1.2", False, "estimate")
    assert count.count("hello") == 3  # 2.4, rounded up
    assert count.count_many(["hello"]) == [3]


def test_very_long_texts_are_counted_in_bounded_pieces(small: tiktoken.Encoding) -> None:
    count = TiktokenCounter(small)
    assert count.count(" " * 1_000_000) == 1_000_000
    assert count.count_many(["x", "^" * 500_001]) == [1, 500_001]


def test_many_texts_on_two_threads_come_back_in_order(small: tiktoken.Encoding) -> None:
    texts = ["h" * (i % 7) for i in range(1000)]
    assert TiktokenCounter(small).count_many(texts, threads=2) == [i % 7 for i in range(1000)]


def test_bytes_are_the_estimate_of_last_resort() -> None:
    count = ByteCounter()
    assert (count.name, count.exact) == ("bytes/3", False)
    assert count.count_many(["", "a", "abcd", "ééé", "\ud800"]) == [0, 1, 2, 2, 1]
    assert ByteCounter(factor=1.5).count("abcdef") == 3


def test_off_counts_nothing() -> None:
    count = counter(*openai("gpt-5-mini"), tokens="off")
    assert isinstance(count, OffCounter)
    assert count.count("x") is None
    assert count.count_many(["x", "y"]) == [None, None]


@pytest.mark.parametrize(
    ("model", "provider", "encoding", "exact"),
    [
        ("gpt-5-mini", "openai", "o200k_base", True),
        ("gpt-4o-mini", "openai", "o200k_base", True),
        ("gpt-3.5-turbo", "openai", "cl100k_base", True),
        ("text-embedding-3-small", "openai", "cl100k_base", True),
        ("gpt-6-sol", "openai", "o200k_base", False),
        ("o9-mini", "openai", "o200k_base", False),
        ("openai/gpt-oss-20b", "groq", "o200k_harmony", True),
        ("llama-3.3-70b-versatile", "groq", "o200k_base", False),
        ("qwen/qwen3-32b", "groq", "o200k_base", False),
        ("simulated", "local", "o200k_base", False),
    ],
)
def test_the_encoding_of_a_model(model: str, provider: str, encoding: str, exact: bool) -> None:
    name, is_exact, note = choose(ModelConfig(id=model), ProviderConfig(name=provider))
    assert (name, is_exact) == (encoding, exact)
    assert note.startswith("estimate") is not exact


def test_a_deployment_counts_as_the_model_it_is_priced_as() -> None:
    assert choose(ModelConfig(id="mine", price_as="gpt-3.5-turbo"), ProviderConfig(name="azure"))[:2] == (
        "cl100k_base",
        True,
    )


def test_a_tokenizer_that_is_named_is_used_or_refused() -> None:
    assert choose(*openai("anything", tokenizer="cl100k_base"))[:2] == ("cl100k_base", True)
    with pytest.raises(ConfigError, match="o200k_base"):
        counter(*openai("anything", tokenizer="o300k"))


def test_a_plan_goes_on_without_a_vocabulary(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:  # a port where nobody answers
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        monkeypatch.setattr(sys, "path", [])  # no package carries it
        sys.path_importer_cache.clear()
        for name in ("litellm", "bpe_openai"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        import tiktoken.registry

        monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
        vocabulary._failed.clear()
        count = counter(*openai("gpt-5-mini"))
    vocabulary._failed.clear()
    assert isinstance(count, ByteCounter)
    assert "not available" in count.note
    assert not alone.exists()


def published(content: bytes, url: str = "http://127.0.0.1:9/small.tiktoken") -> Vocabulary:
    return Vocabulary(url, hashlib.sha256(content).hexdigest())


def test_a_cached_file_is_used_when_its_bytes_are_right(tmp_path: Path) -> None:
    wanted = published(CONTENT)
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    (tmp_path / "bad" / wanted.filename).write_bytes(b"cut")
    (tmp_path / "good" / wanted.filename).write_bytes(CONTENT)
    kept = [tmp_path / "absent", tmp_path / "bad", tmp_path / "good"]
    assert locate(wanted, kept=kept, packages=[], seconds=0) == tmp_path / "good"
    assert (tmp_path / "bad" / wanted.filename).read_bytes() == b"cut"  # not ours to delete


def test_the_file_is_named_as_tiktoken_names_it() -> None:
    assert vocabulary.VOCABULARIES["o200k_base"].filename == "fb374d419588a4632f3f557e76b4b70aebbca790"
    assert vocabulary.VOCABULARIES["cl100k_base"].filename == "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"


def test_an_installed_package_that_carries_the_file_is_used(
    tmp_path: Path, alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "carrier"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('never imported')")
    (package / "data" / "small.tiktoken.gz").write_bytes(gzip.compress(CONTENT))
    (package / "data" / "broken.gz").write_bytes(b"not gzip")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    wanted = published(CONTENT)
    found = locate(wanted, kept=[], packages=[("carrier", "data/small.tiktoken.gz")], seconds=0)
    assert found == alone
    assert [p.name for p in alone.iterdir()] == [wanted.filename]
    assert (alone / wanted.filename).read_bytes() == CONTENT
    for package_name, inside in (("carrier", "data/broken.gz"), ("carrier", "data/none"), ("absent_package", "x")):
        assert locate(published(b"other"), kept=[], packages=[(package_name, inside)], seconds=0) is None
    wrong = published(b"other bytes")
    assert locate(wrong, kept=[], packages=[("carrier", "data/small.tiktoken.gz")], seconds=0) is None


def test_a_publisher_that_never_answers_costs_a_moment_and_is_asked_once(alone: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts and says nothing
        wanted = published(CONTENT, f"http://127.0.0.1:{silent.getsockname()[1]}/small.tiktoken")
        assert locate(wanted, kept=[], packages=[], seconds=0.2) is None
        assert wanted.url in vocabulary._failed
        assert locate(wanted, kept=[], packages=[], seconds=3600) is None  # returns at once: it is remembered
    assert not alone.exists()


def test_chat_framing_and_schema_are_counted(small: tiktoken.Encoding) -> None:
    assert chat_overhead(1) == 7
    assert chat_overhead(2) == 11
    count = TiktokenCounter(small)
    assert schema_tokens(count, None) == 0
    assert schema_tokens(count, {"type": "object"}) == len('{"type":"object"}')
    assert schema_tokens(OffCounter(), {"type": "object"}) is None


def test_a_counter_travels_to_another_process(small: tiktoken.Encoding) -> None:
    import tiktoken.registry

    tiktoken.registry.ENCODINGS["small"] = small
    try:
        copy = pickle.loads(pickle.dumps(TiktokenCounter(small, factor=2.0, note="n")))
        assert (copy.name, copy.note, copy.count("hello")) == ("small*2", "n", 4)
    finally:
        del tiktoken.registry.ENCODINGS["small"]


@pytest.fixture
def tokenizer_file(tmp_path: Path) -> Path:
    """A model's own tokenizer: three words, anything else is unknown; it puts marks around a text when it is asked to."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "bb": 2, "ccc": 3, "[CLS]": 4}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 4)])
    made.enable_truncation(2)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_a_tokenizer_file_counts_exactly_whatever_the_file_cuts_or_adds(tokenizer_file: Path) -> None:
    model = ModelConfig(id="m", tokenizer_file=str(tokenizer_file), token_factor=3.0)
    count = counter(model, ProviderConfig(name="kimi", token_factor=1.2))
    assert (count.name, count.exact, count.note) == (
        "file:tokenizer.json",
        True,
        "the model's own tokenizer (tokenizer.json)",
    )
    assert count.count("a bb ccc a") == 4 and count.count("a bb ccc a") == 4
    assert count.count_many(["", "a", "a what", "\ud800"]) == [0, 1, 2, 1]
    assert pickle.loads(pickle.dumps(count)).count("a bb") == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"version": "1.0", "model": null}'])
def test_a_file_that_is_no_tokenizer_says_so(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"model\.tokenizer_file: .*tokenizer\.json cannot be read"):
        counter(ModelConfig(id="m", tokenizer_file=str(path)), ProviderConfig(name="kimi"))


def test_without_the_package_the_next_command_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError) as caught:
        counter(ModelConfig(id="m", tokenizer_file="t.json"), ProviderConfig(name="kimi"))
    assert "pip install tokenizers" in (caught.value.next_command or "")


@pytest.mark.parametrize(
    ("model", "facts", "provider", "name"),
    [
        ("kimi-k2.6", {}, {"name": "kimi", "token_factor": 1.2}, "bytes/3*1.2"),
        ("kimi-k2.6", {"token_factor": 1.5}, {"name": "kimi", "token_factor": 1.2}, "bytes/3*1.5"),
        ("gpt-oss-20b", {}, {"name": "ovhcloud", "token_factor": 1.2}, "bytes/3"),
        ("m", {"tokenizer": "o200k_base"}, {"name": "kimi", "token_factor": 1.2}, "bytes/3"),
        ("kimi-k2.6", {}, {"name": "local", "token_factor": 1.2}, "bytes/3"),
    ],
)
def test_a_providers_factor_is_for_models_with_tokenizers_of_their_own(
    monkeypatch: pytest.MonkeyPatch, model: str, facts: dict[str, object], provider: dict[str, object], name: str
) -> None:
    monkeypatch.setattr(vocabulary, "encoding", lambda name: (None, "not here"))
    found = counter(ModelConfig.model_validate({"id": model, **facts}), ProviderConfig.model_validate(provider))
    assert found.name == name
