"""Words against golden outputs: the next token at every place, and whole answers.

Visual tokens are the golden ones, so that the words are judged alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import TOKENS, LanguageBackend
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.manifest import Tolerance
from feallm.runtime.language import check as claims_of
from feallm.runtime.language.grammar import answer_grammar
from feallm.runtime.verify import agree, ask, causes
from feallm.runtime.verify.agree import Stated
from feallm.runtime.verify.golden import Golden, Words
from feallm.runtime.verify.lines import NO_LIMITS, WORST, answers, numbers
from feallm.runtime.verify.verdict import Line, Result, Worst


def judge(
    bundle: Bundle, session: LanguageBackend, golden: Golden, words: Words, result: Result
) -> Result:
    """`result` with what was found; `BackendError` where the artifact does not answer."""
    manifest = bundle.manifest
    language = manifest.language
    if language is None:
        raise BackendError(f"{bundle.root}: this bundle has no language model")
    most = max(words.top.max(), *words.question, *(max(one) for one in words.answers))
    if most >= session.vocabulary:
        raise BackendError(f"a vocabulary of {session.vocabulary}, the golden one is larger")
    limits = manifest.artifacts[result.artifact].tolerance.get("words", NO_LIMITS)
    tokenizer = causes.of_tokenizer(session, golden.facts.question, words)
    question = session.tokenize(f"{language.question}\n")
    grammar = answer_grammar(manifest.aus_trained)
    begins, gaps, same, said = words.begins, [], [], []
    kept = np.empty_like(words.logit)
    for m, row in enumerate(words.spoken.tolist()):
        tokens, part = golden.outputs[TOKENS][row], slice(begins[m], begins[m + 1])
        top = words.top[part]
        found = ask.logits(session, tokens, words.question, words.answers[m])
        kept[part] = np.take_along_axis(found, top, 1)
        gaps.append(agree.divergence_of_likeliest(top, words.logit[part], words.total[part], found))
        same.append(found.argmax(1) == top[:, 0])
        said.append(ask.say(session, tokens, question, grammar, language.max_new_tokens))
    lines = [Line("tensor", "tokenizer: kinds of text that are cut otherwise", len(tokenizer), 0)]
    lines += numbers("logits", agree.apart(kept, words.logit), limits)
    lines += _told_tokens(agree.next_tokens(np.concatenate(gaps), np.concatenate(same)), limits)
    lines += answers(_claimed(said), _claimed(words.said), golden, limits, words.spoken)
    changed = np.mean([a.strip() != b.strip() for a, b in zip(said, words.said, strict=True)])
    lines.append(Line("report", "texts that changed", float(changed)))
    result = replace(result, lines=tuple(lines), worst=_worst_words(said, words, gaps))
    if result.passed:
        return result
    if language.question != golden.facts.question:
        tokenizer = [*tokenizer, "another question is asked than the golden model was"]
    return replace(result, causes=tuple(tokenizer))


def _told_tokens(figures: agree.NextTokens, limits: Tolerance) -> list[Line]:
    return [
        Line("report", "KL of the next token, nats, mean", figures.mean, limits.kl_mean),
        Line("report", "KL of the next token, median", figures.median),
        Line("report", "KL of the next token, 99.9 % below", figures.tail, limits.kl_tail),
        Line("report", f"same token first, of {figures.tokens}", figures.same_top,
             limits.same_top, True),
    ]  # fmt: skip


def _claimed(texts: Sequence[str]) -> Stated:
    """What answers in words state; one that has not the form of an answer states nothing."""
    present = np.zeros((len(texts), len(AU_KEYS)), bool)
    expression = np.full(len(texts), -1, np.int64)
    for k, text in enumerate(texts):
        if (claims := claims_of.parse(text)) is not None:
            present[k, [AU_INDEX[key] for key, _ in claims.aus]] = True
            expression[k] = EXPRESSIONS.index(claims.expression)
    return Stated(present, expression)


def _worst_words(
    said: Sequence[str], words: Words, gaps: Sequence[NDArray[np.float64]]
) -> tuple[Worst, ...]:
    means = [float(gap.mean()) for gap in gaps]
    other = [a.strip() != b.strip() for a, b in zip(said, words.said, strict=True)]
    order = sorted(range(len(said)), key=lambda m: (-int(other[m]), -means[m]))
    return tuple(
        Worst(int(words.spoken[m]), words.said[m].strip(), said[m].strip(), means[m])
        for m in order[:WORST]
    )
