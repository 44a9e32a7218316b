"""A string that a regular expression matches, without ever running the expression (it comes from strangers).

Understands what JSON schemas use: literals, classes, groups, alternatives, quantifiers, `^` and `$`.
Anything else (lookarounds, back references, properties) is `UnknownPattern`.
"""

from __future__ import annotations

from batchling.local.engines.draws import Draws

_CLASSES = {
    "d": "0123456789",
    "w": "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_",
    "s": " ",
    "D": "abcdefghijklmnopqrstuvwxyz",
    "W": " -.",
    "S": "abcdefghijklmnopqrstuvwxyz0123456789",
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}
_ANY = "abcdefghijklmnopqrstuvwxyz0123456789"
_PRINTABLE = "".join(map(chr, range(32, 127)))
MAX_GROUPS = 50
MAX_ATOMS = 200_000
"""Pieces read for one string: nested repetitions of nothing would go on for ever."""


class UnknownPattern(ValueError):
    """The expression uses something that is not understood here."""


def from_pattern(pattern: str, draws: Draws, max_length: int) -> str:
    """A string that `pattern` matches.

    Raises:
        UnknownPattern: see the module.
    """
    made = _Pattern(pattern, draws, max_length)
    text = made.alternatives(0)
    if made.at < len(pattern):
        raise UnknownPattern("unbalanced parenthesis")
    return text


class _Pattern:
    """A recursive descent over the expression that writes as it reads; skipped alternatives are read all the same."""

    def __init__(self, pattern: str, draws: Draws, max_length: int):
        self.pattern = pattern
        self.draws = draws
        self.max_length = max_length
        self.at = 0
        self.atoms = 0

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]

    def take(self) -> str:
        char = self.peek()
        if not char:
            raise UnknownPattern("it ends too early")
        self.at += 1
        return char

    def alternatives(self, depth: int) -> str:
        if depth > MAX_GROUPS:
            raise UnknownPattern("nested too deep")
        options = [self.sequence(depth)]
        while self.peek() == "|":
            self.at += 1
            options.append(self.sequence(depth))
        return self.draws.choice(options)

    def sequence(self, depth: int) -> str:
        text = ""
        while (char := self.peek()) and char not in "|)":
            start = self.at
            piece = self.atom(depth)
            end = self.at
            low, high = self.quantifier()
            count = low + self.draws.below(min(high, low + 4) - low + 1)
            text += piece if count else ""
            for _ in range(count - 1):
                # Read the atom again, so that each repetition is sampled separately.
                after, self.at = self.at, start
                text += self.atom(depth)
                self.at = after
                if len(text) > self.max_length:
                    raise UnknownPattern("too long")
            if self.at < end:
                raise UnknownPattern("unreadable quantifier")
        return text

    def atom(self, depth: int) -> str:
        self.atoms += 1
        if self.atoms > MAX_ATOMS:
            raise UnknownPattern("too many repetitions")
        char = self.take()
        if char in "^$":
            return ""
        if char == "(":
            if self.peek() == "?":
                self.at += 1
                self.group_kind()
            text = self.alternatives(depth + 1)
            if self.take() != ")":
                raise UnknownPattern("unbalanced parenthesis")
            return text
        if char == "[":
            return self.draws.choice(self.char_class())
        if char == ".":
            return self.draws.choice(_ANY)
        if char == "\\":
            options = self.escape()
            return self.draws.choice(options) if options else ""
        if char in "*+?{":
            raise UnknownPattern("a quantifier without something to repeat")
        return char

    def group_kind(self) -> None:
        char = self.take()
        if char == ":":
            return
        if char == "P":
            char = self.take()
        if char != "<" or self.peek() in "=!":
            raise UnknownPattern("lookaround or flags")
        while self.take() != ">":
            pass

    def escape(self) -> str:
        """The characters that an escape stands for."""
        char = self.take()
        if char in "bBAZz":
            return "" if char in "AZz" else _unknown("a word boundary")
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char in "xu":
            digits = self.pattern[self.at : self.at + (2 if char == "x" else 4)]
            self.at += len(digits)
            try:
                return chr(int(digits, 16))
            except ValueError:
                raise UnknownPattern("an unreadable escape") from None
        return _unknown("a back reference or property") if char.isalnum() else char

    def char_class(self) -> str:
        negated = self.peek() == "^"
        if negated:
            self.at += 1
        chars: list[str] = []
        first = True
        while self.peek() != "]" or first:
            first = False
            char = self.take()
            options = self.escape() if char == "\\" else char
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", "") and len(options) == 1:
                self.at += 1
                char = self.take()
                last = self.escape() if char == "\\" else char
                if len(last) != 1 or last < options or ord(last) - ord(options) > 70_000:
                    raise UnknownPattern("an unreadable range")
                options = "".join(chr(c) for c in range(ord(options), ord(last) + 1) if not 0xD800 <= c <= 0xDFFF)
            chars.append(options)
        self.at += 1
        found = "".join(chars)
        if negated:
            found = "".join(c for c in _PRINTABLE if c not in found)
        return found or _unknown("an empty class")

    def quantifier(self) -> tuple[int, int]:
        """Fewest and most repetitions; an open end is left to the caller."""
        char = self.peek()
        low, high = 1, 1
        if char in ("*", "+", "?") and char:
            self.at += 1
            low, high = {"*": (0, 4), "+": (1, 5), "?": (0, 1)}[char]
        elif char == "{":
            end = self.pattern.find("}", self.at)
            parts = self.pattern[self.at + 1 : end].split(",") if end > 0 else []
            if not 1 <= len(parts) <= 2 or not all(p.isdecimal() or p == "" for p in parts) or not parts[0]:
                raise UnknownPattern("an unreadable repetition")
            self.at = end + 1
            low = int(parts[0])
            high = low if len(parts) == 1 else int(parts[1]) if parts[1] else low + 4
            if low > self.max_length or high < low:
                raise UnknownPattern("an unreadable repetition")
        if self.peek() == "?" and char in ("*", "+", "?", "{") and char:
            self.at += 1  # lazy: the same strings
        return low, high


def _unknown(what: str) -> str:
    raise UnknownPattern(what)
