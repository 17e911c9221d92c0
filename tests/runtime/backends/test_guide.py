"""Our grammar matcher against llama.cpp's: the same token at every step, for a model that wants to
leave the grammar at every step (random weights), and for the shipped one."""

from __future__ import annotations

import numpy as np
import pytest

from feallm.runtime.backends import llama
from feallm.runtime.backends.guide import Guide, generate
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.language.grammar import answer_grammar

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))

ANSWER = b"AUs: AU1 inner brow raiser (slight), AU12 lip corner puller (strong)\n"


def whole(grammar, text):
    """Whether a text is a whole answer; each cut into pieces must say the same."""
    begin = Guide(grammar).begin
    at_once = begin.advance(text)
    state = begin
    for byte in text:
        state = state and state.advance(bytes([byte]))
    assert state is at_once
    return state is not None and state.may_end


@pytest.mark.parametrize(
    ("rules", "good", "bad"),
    [
        ('root ::= "ab"', ["ab"], ["", "a", "abc", "b"]),
        ('root ::= "a" | "bc" | ""', ["", "a", "bc"], ["abc", "b"]),
        ('root ::= "a"? "b"', ["b", "ab"], ["a", "aab"]),
        ('root ::= "a"+ "b"*', ["a", "aa", "aab", "abb"], ["", "b", "aba"]),
        ('root ::= ("a" | "b" "c")+ "."', ["a.", "bca."], ["b.", ".", "abc"]),
        ("root ::= [a-c0-9,-]+", ["a", "c9,", "-"], ["d", "", "a "]),
        ('root ::= [A-Z] x\nx ::= "." | ". " root', ["A.", "A. B."], ["A. ", "A.B.", "a."]),
        (r'root ::= "\"\\\n\t\x41\u00e9\U0001f642"', ['"\\\n\tAé🙂'], ['"\\\n\tAe']),
        (r'root ::= [\x41\]\\-]+', ["A]\\-"], ["["]),
        ('root ::= ( "a"? )* "b"', ["b", "aab"], ["a"]),
        ('root ::= "(" root? ")"', ["()", "((()))"], ["(", "(()"]),
        ("root ::=\n  one |\n  two\none ::= \"1\"\n\ntwo ::= \"2\"", ["1", "2"], ["12"]),
        ('root ::= "aux" aux\naux ::= "a" | "au"', ["auxa", "auxau"], ["aux"]),
    ],
)  # fmt: skip
def test_what_a_grammar_lets_through(rules, good, bad):
    assert all(whole(rules, text.encode()) for text in good)
    assert not any(whole(rules, text.encode()) for text in bad)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ("", "no rule root"),
        ('other ::= "a"', "no rule root"),
        ("root ::= a b", "no rule a, b"),
        ('root ::= "a"\nroot ::= "b"', "rule root is there twice"),
        ('root ::= "a', "not understood"),
        ("root ::= [^a]", "ASCII letters that are named"),
        ("root ::= [à-ü]", "ASCII letters that are named"),
        ("root ::= [z-a]", "runs backwards"),
        (r'root ::= "\q"', "escape"),
        ('root ::= "a"{2}', "not understood"),
        ("root ::= .", "not understood"),
        ('root ::= ("a"', r"\) expected at its end"),
        ('root ::= "a")', "expected, found"),
        ("root ::= +", "repeats nothing"),
        ('root "a"', "::= expected, found"),
        ('root ::= root "a" | "b"', "refers to itself"),
    ],
)
def test_a_grammar_that_is_not_understood_is_refused(rules, message):
    with pytest.raises(BackendError, match=message) as caught:
        Guide(rules)
    assert "\n" not in caught.value.line()


def test_states_are_few_and_do_not_change():
    """They are kept: their number must not grow with the length of what is said."""
    guide = Guide(answer_grammar(AU_KEYS))
    state = guide.begin.advance(ANSWER + b"Expression: fear\nWhy: ")
    before = len(guide._states)
    assert state.advance(b"No. " * 50) is state.advance(b"No. ")
    assert len(guide._states) < before + 8
    assert not guide.begin.may_end and guide.begin.allows(b"AUs: none\n")


class Fixed:
    """A session that says what is best at each step, as logits over single bytes and an end."""

    provider = "fixed"

    def __init__(self, *rows):
        self.rows, self.fed = list(rows), []

    def logits(self):
        return np.asarray(self.rows[len(self.fed)], np.float32)

    def feed(self, tokens):
        self.fed += tokens


class Letters:
    """Tokens: a, b, ab, one without a piece, the end."""

    begin, end, vocabulary = 3, 4, 5

    def piece(self, token):
        return [b"a", b"b", b"ab", b"", b""][token]


@pytest.mark.parametrize(
    ("rules", "rows", "expected"),
    [
        (None, [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1]], [b"ab"]),
        ('root ::= "b" "a"', [[9, 1, 8, 7, 6], [0, 9, 8, 7, 6], [9, 9, 9, 9, 0]], [b"b", b"a"]),
        ('root ::= "a" "b"?', [[1, 0, 1, 0, 5], [9, 1, 8, 7, 2]], [b"a"]),  # a tie: the first
        ('root ::= "aa"', [[1, 3, 2, 0, 0], [1, 3, 2, 0, 0], [0, 0, 0, 0, 0]], [b"a", b"a"]),
    ],
)
def test_the_best_token_that_fits_is_taken(rules, rows, expected):
    assert list(generate(Fixed(*rows), Letters(), 5, rules)) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(bad):
    good, row = [0, 1, 0, 0, 0], [0, 1, bad, 0, 0]
    with pytest.raises(BackendError, match="fixed gave logits that are not finite"):
        list(generate(Fixed(row), Letters(), 3))
    assert list(generate(Fixed(good, row), Letters(), 1)) == [b"b"]
    with pytest.raises(BackendError, match="not finite"):
        list(generate(Fixed(good, row), Letters(), 2))


def test_no_token_that_fits_is_an_error():
    with pytest.raises(BackendError, match="no token of the vocabulary"):
        list(generate(Fixed([1, 2, 3, 4, 5]), Letters(), 3, 'root ::= "c"'))


def test_the_limit_holds():
    assert len(list(generate(Fixed(*[[1, 0, 0, 0, 0]] * 9), Letters(), 7, 'root ::= "a"+'))) == 7


@pytest.fixture(scope="module")
def session(toy_bundle_with_words):
    session = LlamaSession(toy_bundle_with_words / "language.gguf", width=256, context=256)
    session.provider = "llama.cpp"
    yield session
    session.close()


class Own:
    """llama.cpp's own tokens behind our names, so that grammars alone are compared."""

    begin, end = 1, 2

    def __init__(self, session):
        self.piece = session.piece


@needs_llama
@pytest.mark.parametrize("trained", [AU_KEYS, AU_KEYS[::3], ()])
def test_the_choice_is_llama_cpps_at_every_step(session, trained):
    grammar = answer_grammar(trained)
    lengths = []
    for seed in range(4):
        visual = np.random.default_rng(seed).normal(size=(17, 256)).astype(np.float32)
        both = []
        for say in (session.generate, lambda n, g: generate(session, Own(session), n, g)):
            session.restart()
            session.see(visual)
            session.feed(session.tokenize("Why?\n"))
            both.append(list(say(150, grammar)))
        assert both[0] == both[1]
        lengths.append(len(both[0]))
        state = Guide(grammar).begin.advance(b"".join(both[0]))
        assert state is not None
    assert max(lengths) > 60
