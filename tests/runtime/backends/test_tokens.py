"""Our tokens against llama.cpp's: the same ids for any text, the same bytes for any id."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="this tokenizer needs tokenizers")

from feallm.runtime.backends import llama
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.backends.tokens import Tokens
from feallm.runtime.contract.errors import BackendError

needs_llama = pytest.mark.skipif(llama.available() is not None, reason=str(llama.available()))

ODD = [
    "", " ", "  ", "\n", "\n\n\n", " \n ", "\t", "a\r\nb", "trailing  ", "   leading",
    "0", "2026", "3.14159", "1 000 000", "AU12", "AU1AU2", "AU 12", "x2y3",
    "don't we're I'll he'd I'm you've it's", "DON'T", "'", "''", "s's",
    "naïve café", "Grüße", "Ça va", "Привет мир", "你好，世界", "こんにちは", "مرحبا", "नमस्ते",
    "🙂", "👩‍👩‍👧", "e\u0301", "\u00a0nbsp\u00a0", "\u200b", "\ufeffbom", "½ ² ①",
    "–—…“”", "\u3000", "\x7f\x80\x9f\xad\xff", "".join(map(chr, range(0x20, 0x180))),
    "<", "<>", "<bos>", "a <eos> b", "<pad><unused0>", "< eos >", "[INST]", "\\n", "\x00",
    "AUs: none\nExpression: neutral\nWhy: ", "AUs: AU12 lip corner puller (strong), ",
]  # fmt: skip


def texts():
    rng = random.Random(2)
    alphabet = "ab AU12 ,.()\n;'éß你🙂\t-<eos>"
    return [*ODD, *("".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(100))]


@pytest.fixture(scope="module")
def path(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    path.write_text(tiny.tokenizer_json(), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def session(tiny, exported):
    config = tiny.CONFIG.language
    session = LlamaSession(
        exported[1] / "language.fp16.gguf", width=config.width, context=config.context
    )
    yield session
    session.close()


@needs_llama
def test_ids_are_llama_cpps(path, session):
    tokens = Tokens(path)
    for text in texts():
        assert tokens.encode(text) == session.tokenize(text), repr(text)


@needs_llama
def test_pieces_are_llama_cpps(path, session):
    tokens = Tokens(path)
    assert tokens.vocabulary == session.vocabulary
    for k in range(tokens.vocabulary):
        assert tokens.piece(k) == session.piece(k), k


def test_the_pieces_of_a_text_are_its_bytes(path):
    tokens = Tokens(path)
    for text in texts():
        assert b"".join(map(tokens.piece, tokens.encode(text))) == text.encode()
    assert {tokens.piece(tokens.encode(chr(k))[0])[:1] for k in range(128)} == {
        bytes([k]) for k in range(128)
    }


def test_special_tokens_are_found_by_name_and_are_no_text(path):
    tokens = Tokens(path)
    assert (tokens.begin, tokens.end) == (1, 2)
    assert [tokens.piece(k) for k in range(3)] == [b""] * 3
    assert not {tokens.begin, tokens.end} & set(tokens.encode("<bos> and <eos>"))


def changed(path, folder, change):
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    (folder / "changed.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder / "changed.json"


def without_end(fields):
    fields["added_tokens"] = [t for t in fields["added_tokens"] if t["content"] != "<eos>"]
    del fields["model"]["vocab"]["<eos>"]


def with_a_gap(fields):
    fields["model"]["vocab"]["far"] = 9999


def of_words(fields):
    fields["added_tokens"].append(
        {**fields["added_tokens"][0], "content": "<more>", "id": len(fields["model"]["vocab"]) + 1}
    )
    fields["model"]["vocab"]["a b"] = len(fields["model"]["vocab"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_end, "no <eos>"),
        (with_a_gap, "gaps"),
        (of_words, "not a byte-level tokenizer: token 'a b'"),
        (lambda fields: fields.pop("model"), "not a readable tokenizer"),
    ],
)
def test_another_kind_of_file_is_refused(path, tmp_path, change, message):
    with pytest.raises(BackendError, match=message):
        Tokens(changed(path, tmp_path, change))


@pytest.mark.parametrize("content", [b"", b"not json", b"\xff\xfe"])
def test_a_damaged_file_is_one_clear_line(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(BackendError, match=r"x\.json: not a readable tokenizer") as caught:
        Tokens(tmp_path / "x.json")
    assert "\n" not in caught.value.line()


def test_a_missing_file_or_library_is_named(tmp_path, monkeypatch):
    with pytest.raises(BackendError, match=r"none\.json"):
        Tokens(tmp_path / "none.json")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BackendError, match="tokenizers is not installed"):
        Tokens(Path("any"))
