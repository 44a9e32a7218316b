"""Counters: one interface, four ways to count, and which of them a model gets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchling.errors import ConfigError
from batchling.spec import ModelConfig, ProviderConfig
from batchling.tokens import vocabulary

if TYPE_CHECKING:
    import tiktoken

BYTES_PER_TOKEN = 3
"""UTF-8 bytes for each token of an estimate: prose has about 4, code and markup 2.5 to 3."""

_REMEMBERED = 1024  # texts
_PIECE = 200_000  # characters; longer texts are counted in pieces (the regex engine's stack, and time)
_ESTIMATE = (
    "estimate: the model has a tokenizer of its own; model.tokenizer_file counts exactly, model.token_factor corrects"
)
_OPENAI_LIKE = re.compile(r"^(ft:)?(gpt-|chatgpt|o\d|text-embedding-|codex|computer-use)")


class Counter(Protocol):
    """Counts tokens.

    Attributes:
        name: `o200k_base`, `o200k_base*1.2`, `bytes/3` or `off`.
        exact: the model's own encoding counts the texts (the framing of a request stays an estimate).
        note: for people: what the figures are worth.
    """

    @property
    def name(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def note(self) -> str: ...

    def count(self, text: str) -> int | None:
        """Tokens of one text; repeated texts are remembered. None when not counting."""
        ...

    def count_many(self, texts: Sequence[str]) -> Sequence[int | None]:
        """Tokens of many texts that are mostly different, in order."""
        ...


class TiktokenCounter:
    """Counts with a tiktoken encoding. Special tokens in a text are text."""

    def __init__(self, encoding: tiktoken.Encoding, *, factor: float = 1.0, exact: bool = True, note: str = ""):
        self._encoding_name = encoding.name
        self.name = encoding.name if factor == 1.0 else f"{encoding.name}*{factor:g}"
        self.exact = exact and factor == 1.0
        self.note = note or ("exact" if self.exact else "estimate")
        self._encode = encoding.encode_ordinary
        self._factor = factor
        self._memory: dict[str, int] = {}

    def count(self, text: str) -> int:
        known = self._memory.get(text)
        if known is None:
            known = self._count(text)
            if len(self._memory) >= _REMEMBERED:
                self._memory.clear()
            self._memory[text] = known
        return known

    def count_many(self, texts: Sequence[str], *, threads: int = 1) -> list[int]:
        """Tokens of many texts, in order.

        `threads`: two count long texts (thousands of characters) 1.6 times as fast as one; short ones gain nothing,
        because a thread holds Python's lock between texts. Processes gain for both.
        """
        if threads > 1 and len(texts) >= 2 * threads:
            size = -(-len(texts) // threads)
            with ThreadPoolExecutor(threads) as pool:
                parts = pool.map(self.count_many, (texts[i : i + size] for i in range(0, len(texts), size)))
                return [n for part in parts for n in part]
        # A plain loop: tiktoken's own batch call starts a future for each text, seven times slower for short ones.
        encode, memory = self._encode, self._memory
        if self._factor != 1.0 or any(len(t) > _PIECE for t in texts):
            return [memory[t] if t in memory else self._count(t) for t in texts]
        return [memory[t] if t in memory else len(encode(t)) for t in texts]

    def __reduce__(self) -> tuple[Any, ...]:
        # tiktoken pickles an encoding as its name and loads it again, which could go to the network.
        return _restored, (self._encoding_name, self._factor, self.exact, self.note)

    def _count(self, text: str) -> int:
        pieces = [text] if len(text) <= _PIECE else [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)]
        total = sum(len(self._encode(piece)) for piece in pieces)
        return total if self._factor == 1.0 else math.ceil(total * self._factor)


def _restored(name: str, factor: float, exact: bool, note: str) -> TiktokenCounter:
    encoding, reason = vocabulary.encoding(name)
    if encoding is None:
        raise RuntimeError(f"the vocabulary {name} was available in the parent process and is not here: {reason}")
    return TiktokenCounter(encoding, factor=factor, exact=exact, note=note)


class ByteCounter:
    """Estimates from the number of bytes, when no vocabulary is available."""

    exact = False

    def __init__(self, *, factor: float = 1.0, note: str = ""):
        self.name = f"bytes/{BYTES_PER_TOKEN}" + ("" if factor == 1.0 else f"*{factor:g}")
        self.note = note or "estimate from the number of bytes"
        self._factor = factor

    def count(self, text: str) -> int:
        size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
        return math.ceil(size / BYTES_PER_TOKEN * self._factor)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        return [self.count(t) for t in texts]


class OffCounter:
    """Does not count: `tokens: off`."""

    name = "off"
    exact = False
    note = "tokens are not counted (tokens: off)"

    def count(self, text: str) -> None:
        return None

    def count_many(self, texts: Sequence[str]) -> list[None]:
        return [None] * len(texts)


class FileCounter:
    """Counts with a model's own tokenizer, read from its `tokenizer.json`. Special tokens are counted as the file has them,
    without those that it would put around a text: the framing of a request is an estimate of its own.

    Raises:
        ConfigError: the package `tokenizers` is not installed, or the file is not there or is no tokenizer.
    """

    exact = True

    def __init__(self, path: str):
        try:
            import tokenizers
        except ImportError:
            raise ConfigError(
                "model.tokenizer_file: counting with a tokenizer file needs the package tokenizers",
                next_command="pip install tokenizers (or take model.tokenizer_file away for an estimate)",
                key="model.tokenizer_file",
            ) from None
        self._path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as error:  # its own type is a bare Exception
            raise ConfigError(
                f"model.tokenizer_file: {path} cannot be read as a tokenizer.json ({str(error)[:160]})",
                key="model.tokenizer_file",
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.name = f"file:{PurePath(path).name}"
        self.note = f"the model's own tokenizer ({PurePath(path).name})"
        self._memory: dict[str, int] = {}

    def count(self, text: str) -> int:
        known = self._memory.get(text)
        if known is None:
            known = self.count_many([text])[0]
            if len(self._memory) >= _REMEMBERED:
                self._memory.clear()
            self._memory[text] = known
        return known

    def count_many(self, texts: Sequence[str]) -> list[int]:
        # A lone surrogate is no text for it; the request has its escape, which is longer than the mark that is counted.
        whole = [text.encode("utf-8", "replace").decode() for text in texts]
        return [len(found.ids) for found in self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)]

    def __reduce__(self) -> tuple[Any, ...]:
        return FileCounter, (self._path,)


def choose(model: ModelConfig, provider: ProviderConfig) -> tuple[str, bool, str]:
    """Which encoding counts for a model: its name, whether it is the model's own, and why in words. No network.

    Raises:
        ConfigError: `model.tokenizer` is not an encoding that tiktoken knows.
    """
    import tiktoken
    import tiktoken.model

    if model.tokenizer is not None:
        names = tiktoken.list_encoding_names()
        if model.tokenizer not in names:
            raise ConfigError(
                f"model.tokenizer: {model.tokenizer!r} is not an encoding of tiktoken; there are: {', '.join(sorted(names))}"
            )
        return model.tokenizer, True, "as model.tokenizer says"
    name = (model.price_as or model.id).rsplit("/", 1)[-1].lower()
    if name.startswith("gpt-oss"):
        return "o200k_harmony", True, "the model's own encoding"
    try:
        return tiktoken.model.encoding_name_for_model(name), True, "the model's own encoding"
    except KeyError:
        pass
    if _OPENAI_LIKE.match(name):
        return "o200k_base", False, "estimate: tiktoken does not know this model yet"
    if provider.name == "local":
        return "o200k_base", False, "estimate: the local server's engine decides"
    return "o200k_base", False, _ESTIMATE


def counter(model: ModelConfig, provider: ProviderConfig, *, tokens: Literal["auto", "off"] = "auto") -> Counter:
    """The counter for a model. Never fails for want of a vocabulary and never takes more than a few seconds.

    Raises:
        ConfigError: `model.tokenizer` is not an encoding that tiktoken knows, or `model.tokenizer_file` cannot be used.
    """
    if tokens == "off":
        return OffCounter()
    if model.tokenizer_file is not None:
        return FileCounter(model.tokenizer_file)
    name, exact, why = choose(model, provider)
    factor = model.token_factor
    if not exact and factor == 1.0 and provider.token_factor is not None and provider.name != "local":
        factor = provider.token_factor
        why = f"{why} ({factor:g} at {provider.name}: provider.token_factor)"
    encoding, reason = vocabulary.encoding(name)
    if encoding is None:
        note = (
            f"estimate from the number of bytes: the vocabulary {name} is not available ({reason[:120]}); "
            "`pip install bpe-openai`, or set TIKTOKEN_CACHE_DIR to a folder that holds it"
        )
        return ByteCounter(factor=factor, note=note)
    return TiktokenCounter(encoding, factor=factor, exact=exact, note=why)
