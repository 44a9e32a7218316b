"""Tokens: how many a text has, exactly where the encoding is known, else as an estimate that says so."""

from batchling.tokens.counter import ByteCounter, Counter, FileCounter, OffCounter, TiktokenCounter, counter
from batchling.tokens.overhead import MESSAGE_TOKENS, PRIMING_TOKENS, chat_overhead, schema_tokens

__all__ = [
    "MESSAGE_TOKENS",
    "PRIMING_TOKENS",
    "ByteCounter",
    "Counter",
    "FileCounter",
    "OffCounter",
    "TiktokenCounter",
    "chat_overhead",
    "counter",
    "schema_tokens",
]
