"""Grammars for engines that have none of their own: one GBNF text serves them and llama.cpp.

What `language.grammar` writes is understood: literals with escapes, classes of ASCII letters with
ranges, groups, choices, `?`, `+`, `*`, names of rules. Anything else is refused, not guessed at.
A state is the set of everything that may follow; states are kept with the steps between them, so
that a grammar soon costs one look-up a byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.tokens import Tokens
from feallm.runtime.contract.errors import BackendError

ROOT = "root"
_MOST_WAYS = 10_000
"""Ways on from one place; more have only rules that refer to themselves before any letter."""

_WORD = re.compile(
    r'\s+|(?P<literal>"(?:[^"\\\n]|\\.)*")|(?P<letters>\[(?:[^\]\\\n]|\\.)+\])'
    r"|(?P<name>[A-Za-z][A-Za-z0-9-]*)|(?P<sign>::=|[()|?+*])"
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"} | {sign: sign for sign in '"\\[]'}

Part = frozenset[int] | str  # bytes of which one comes next, or a rule
Way = tuple[Part, ...]  # what must still come, until the end
_Words = list[tuple[str, str]]  # kind and text


class Guide:
    """A grammar: its rules by name, and the states that were met. `begin` is the first."""

    def __init__(self, grammar: str) -> None:
        self._ways: dict[str, list[Way]] = {}
        self._states: dict[frozenset[Way], State] = {}
        words = _words(grammar)
        while words:
            name = _take(words, "name")
            _take(words, "sign", "::=")
            if name in self._ways:
                raise BackendError(f"grammar: rule {name} is there twice")
            self._ways[name] = self._choices(words, name)
        used = {part for ways in self._ways.values() for way in ways for part in way}
        wanted = {ROOT, *(part for part in used if isinstance(part, str))}
        if missing := sorted(wanted - set(self._ways)):
            raise BackendError(f"grammar: no rule {', '.join(missing)}")
        self.begin = self.state([(ROOT,)])

    def _choices(self, words: _Words, name: str) -> list[Way]:
        """Ways up to the end of a rule or group."""
        ways: list[Way] = [()]
        while words and words[0][1] != ")" and words[1:2] != [("sign", "::=")]:
            if words[0] == ("sign", "|"):
                words.pop(0)
                ways.append(())
            else:
                ways[-1] += self._part(words, name)
        return ways

    def _part(self, words: _Words, name: str) -> Way:
        """One part with the sign of its repetition."""
        kind, text = words.pop(0)
        way: Way
        if kind == "literal":
            way = tuple(frozenset((byte,)) for byte in _plain(text[1:-1]).encode())
        elif kind == "letters":
            way = (_letters(text),)
        elif kind == "name":
            way = (text,)
        elif text == "(":
            way = (self._new(name, self._choices(words, name)),)
            _take(words, "sign", ")")
        else:
            raise BackendError(f"grammar: {text} in rule {name} repeats nothing")
        if not words or words[0][0] != "sign" or words[0][1] not in "?*+":
            return way
        sign = words.pop(0)[1]
        if sign == "?":
            return (self._new(name, [way, ()]),)
        again = self._new(name, [()])
        self._ways[again].append((*way, again))
        return (*way, again) if sign == "+" else (again,)

    def _new(self, name: str, ways: list[Way]) -> str:
        """A rule without a name of its own; no name in a grammar holds a colon."""
        new = f"{name}:{len(self._ways)}"
        self._ways[new] = ways
        return new

    def state(self, ways: Iterable[Way]) -> State:
        """The one state of all that these ways may begin with."""
        met: set[Way] = set()
        todo = list(ways)
        while todo:
            way = todo.pop()
            if way in met:
                continue
            met.add(way)
            if len(met) > _MOST_WAYS:
                raise BackendError("grammar: a rule refers to itself before any letter")
            if way and isinstance(way[0], str):
                todo += [start + way[1:] for start in self._ways[way[0]]]
        firm = frozenset(way for way in met if not way or not isinstance(way[0], str))
        if firm not in self._states:
            self._states[firm] = State(self, firm)
        return self._states[firm]


class State:
    """A place in a grammar; it does not change."""

    __slots__ = ("_guide", "_steps", "_ways", "may_end")

    def __init__(self, guide: Guide, ways: frozenset[Way]) -> None:
        self._guide, self._ways = guide, ways
        self._steps: dict[int, State | None] = {}
        self.may_end = () in ways  # what was said so far is whole

    def allows(self, piece: bytes) -> bool:
        """Whether all of a piece may come next; nothing at all is no piece."""
        return bool(piece) and self.advance(piece) is not None

    def advance(self, piece: bytes) -> State | None:
        """The state after a piece, or None where it may not come."""
        state = self
        for byte in piece:
            steps = state._steps
            after = steps[byte] if byte in steps else state._step(byte)
            if after is None:
                return None
            state = after
        return state

    def _step(self, byte: int) -> State | None:
        ways = [w[1:] for w in self._ways if w and not isinstance(w[0], str) and byte in w[0]]
        after = self._guide.state(ways) if ways else None
        self._steps[byte] = after
        return after


class Stepped(Protocol):
    """What decoding asks of a session."""

    provider: str

    def logits(self) -> NDArray[np.float32]:
        """Logits (vocabulary,) after the last token."""

    def feed(self, tokens: list[int]) -> None:
        """Append tokens."""


def generate(
    session: Stepped, tokens: Tokens, limit: int, grammar: str | None = None
) -> Iterator[bytes]:
    """Greedy pieces of an answer: always the best token whose whole piece the grammar admits, the
    end token only where the grammar may end. Without a grammar, the best token."""
    state = None if grammar is None else _guide(grammar).begin
    for _ in range(limit):
        logits = session.logits()
        if not np.isfinite(logits).all():
            raise BackendError(f"{session.provider} gave logits that are not finite")
        token = _best(logits, tokens, state)
        if token == tokens.end:
            return
        piece = tokens.piece(token)
        if state is not None:
            state = state.advance(piece)
        yield piece
        session.feed([token])


@lru_cache(maxsize=4)
def _guide(grammar: str) -> Guide:
    """A bundle asks with one grammar again and again."""
    return Guide(grammar)


def _best(logits: NDArray[np.float32], tokens: Tokens, state: State | None) -> int:
    best = int(logits.argmax())
    if state is None or _fits(best, tokens, state):
        return best
    for token in np.argsort(-logits, kind="stable").tolist():
        if _fits(token, tokens, state):
            return int(token)
    raise BackendError("no token of the vocabulary fits the grammar")


def _fits(token: int, tokens: Tokens, state: State) -> bool:
    return state.may_end if token == tokens.end else state.allows(tokens.piece(token))


def _words(grammar: str) -> _Words:
    """What a grammar is made of, without its blanks."""
    found: _Words = []
    at = 0
    while at < len(grammar):
        match = _WORD.match(grammar, at)
        if match is None:
            raise BackendError(f"grammar: {grammar[at : at + 20]!r} is not understood")
        if match.lastgroup is not None:
            found.append((match.lastgroup, match.group()))
        at = match.end()
    return found


def _take(words: _Words, kind: str, text: str | None = None) -> str:
    """The next word, which must be of a kind, or this one."""
    expected = text or f"a {kind}"
    if not words:
        raise BackendError(f"grammar: {expected} expected at its end")
    found, word = words.pop(0)
    if found != kind or text not in (None, word):
        raise BackendError(f"grammar: {expected} expected, found {word}")
    return word


def _plain(text: str) -> str:
    """A literal or letter without its escapes."""

    def turn(match: re.Match[str]) -> str:
        code: str = match.group(1)
        if len(code) > 1:
            return chr(int(code[1:], 16))
        if code not in _ESCAPED:
            raise BackendError(f"grammar: escape \\{code} is not understood")
        return _ESCAPED[code]

    return _ESCAPE.sub(turn, text)


def _letters(text: str) -> frozenset[int]:
    """Bytes of a class such as [A-Za-z0-9 ,-]; a hyphen at its end is a letter."""
    letters = re.findall(r"\\(?:x..|u.{4}|U.{8}|.)|[^\\]", text[1:-1])
    codes = [ord(_plain(letter)) for letter in letters]
    if letters[0] == "^" or max(codes) > 0x7F:
        raise BackendError(f"grammar: {text}: only ASCII letters that are named are understood")
    found: set[int] = set()
    k = 0
    while k < len(codes):
        last = k + 2 if letters[k + 1 : k + 2] == ["-"] and k + 2 < len(codes) else k
        if codes[last] < codes[k]:
            raise BackendError(f"grammar: {text}: a range that runs backwards")
        found.update(range(codes[k], codes[last] + 1))
        k = last + 1
    return frozenset(found)
