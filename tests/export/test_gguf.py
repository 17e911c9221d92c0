"""The GGUF file against torch: same tokens for a text, same logits after visual tokens."""

import ctypes
import random
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from feallm.export import gguf as writer
from feallm.export.parity import next_token_agreement
from feallm.model.checkpoint import load
from feallm.model.tokenizer import SPECIAL
from feallm.runtime.backends import llama
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.bundle.open import open_bundle

needs_llama = pytest.mark.skipif(
    llama.available() is not None, reason=llama.available() or "llama.cpp is there"
)


@pytest.fixture(scope="module")
def checkpoint(exported):
    return load(exported[0])


@pytest.fixture(scope="module")
def session(tiny, exported):
    config = tiny.CONFIG.language
    session = LlamaSession(
        exported[1] / "language.gguf", width=config.width, context=config.context
    )
    yield session
    session.close()


def hard_texts(tiny) -> list[str]:
    """200 texts: the project's own, and what byte-level tokenizers tend to disagree on."""
    odd = [
        "", " ", "  ", "\n", "\n\n\n", " \n ", "\t", "a\r\nb", "trailing  ", "   leading",
        "0", "2026", "3.14159", "1 000 000", "AU12", "AU1AU2", "AU 12", "x2y3",
        "don't we're I'll he'd I'm you've it's", "DON'T", "'", "''", "s's",
        "naïve café", "Grüße", "Ça va", "Привет мир", "你好，世界", "こんにちは", "مرحبا", "नमस्ते",
        "🙂", "👩‍👩‍👧", "e\u0301", "\u00a0nbsp\u00a0", "\u200b", "\ufeffbom", "½ ² ①",
        "–—…“”", "\u3000",
        "<", "<>", "< eos >", "[INST]", "a<b>c", "#$%&()*+,-./:;=?@[]^_`{|}~", "\\n", "\x00",
        "AUs: none\nExpression: neutral\nWhy: ", "AUs: AU12 lip corner puller (strong), ",
    ]  # fmt: skip
    rng = random.Random(1)
    alphabet = "ab AU12 ,.()\n;'éß你🙂\t-"
    mixed = ["".join(rng.choices(alphabet, k=rng.randint(1, 40))) for _ in range(60)]
    own = tiny.texts()
    return [*odd, *mixed, *own[: 200 - len(odd) - len(mixed)]]


@needs_llama
def test_both_tokenizers_give_the_same_tokens(tiny, session):
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json())
    texts = hard_texts(tiny)
    assert len(texts) == 200
    for text in texts:
        assert session.tokenize(text) == tokenizer.encode(text).ids, repr(text)


@needs_llama
@pytest.mark.parametrize("name", [*SPECIAL, "<unused0>"])
def test_names_of_special_tokens_are_plain_text_on_the_device(tiny, session, name):
    """What a person types can then not end or begin an answer."""
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json())
    tokenizer.encode_special_tokens = True
    text = f"a {name} b"
    found = session.tokenize(text)
    assert found == tokenizer.encode(text).ids
    assert b"".join(map(session.piece, found)).decode() == text


@needs_llama
def test_pieces_join_to_the_text(tiny, session):
    for text in hard_texts(tiny):
        if "\0" not in text:
            assert b"".join(map(session.piece, session.tokenize(text))).decode() == text


@needs_llama
def test_llama_and_torch_put_the_same_token_first(tiny, exported, checkpoint):
    agreement = next_token_agreement(checkpoint, open_bundle(exported[1]), tiny.crops(4))
    assert agreement.tokens > 20
    assert agreement.share >= 0.99
    assert agreement.worst_logit < 0.05


@needs_llama
@torch.no_grad()
def test_every_logit_of_a_project_text_agrees(tiny, session, checkpoint):
    """Teacher-forced, so that also the tokens that a random network would never say are read."""
    language = checkpoint.language
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    visual = checkpoint.vision(torch.from_numpy(tiny.crops(4)))[3]
    begin = language.embed(torch.tensor([[tokenizer.token_to_id("<bos>")]]))
    same = count = 0
    for k, tokens in enumerate(visual):
        ids = tokenizer.encode(tiny.texts()[2 * k] + tiny.texts()[2 * k + 1]).ids
        text = language.embed(torch.tensor([ids]))
        expected = language(torch.cat([begin, tokens[None], text], 1))[0, 1 + len(tokens) :].numpy()
        session.restart()
        session.see(tokens.numpy())
        session.feed(ids, every_logit=True)
        found = np.stack([session.logits(i) for i in range(len(ids))])
        np.testing.assert_allclose(found, expected, rtol=0, atol=0.05)
        same += int((found.argmax(1) == expected.argmax(1)).sum())
        count += len(ids)
    assert count > 100 and same / count >= 0.99


@needs_llama
def test_unpermuted_attention_is_caught(tiny, exported, checkpoint, tmp_path, monkeypatch):
    """The reordering of q and k is what people forget: parity must then fail."""
    monkeypatch.setattr(writer, "permuted", lambda weight, heads: weight)
    folder = tmp_path / "planted"
    shutil.copytree(exported[1], folder)
    writer.export_language(checkpoint.language, checkpoint.tokenizer, folder / "language.gguf")
    bundle = open_bundle(exported[1])
    planted = type(bundle)(folder, bundle.manifest)
    agreement = next_token_agreement(checkpoint, planted, tiny.crops(4))
    assert agreement.share < 0.99 and agreement.worst_logit > 0.05


def test_permuting_moves_half_rotation_to_interleaved():
    """Row j of a head's first half goes to place 2 j, of its second half to 2 j + 1."""
    weight = np.arange(2 * 6, dtype=np.float32)[:, None]
    found = writer.permuted(weight, 2)[:, 0].astype(int).tolist()
    assert found == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@needs_llama
def test_the_file_names_the_special_tokens(tiny, session):
    import llama_cpp.llama_cpp as lib

    ids = [lib.llama_vocab_pad(session._vocab), lib.llama_vocab_bos(session._vocab)]
    ids.append(lib.llama_vocab_eos(session._vocab))
    tokenizer = Tokenizer.from_str(tiny.tokenizer_json())
    assert ids == [tokenizer.token_to_id(token) for token in SPECIAL]
    assert not lib.llama_vocab_get_add_bos(session._vocab)
    kept = ctypes.create_string_buffer(64)
    assert lib.llama_model_meta_val_str(session._model, b"general.architecture", kept, 64) > 0
    assert kept.value == b"llama"


def test_a_tokenizer_with_gaps_is_refused(tiny, checkpoint, tmp_path):
    import json

    fields = json.loads(checkpoint.tokenizer)
    fields["added_tokens"].append({"content": "<far>", "id": 999})
    with pytest.raises(ValueError, match="gaps"):
        writer.export_language(checkpoint.language, json.dumps(fields), tmp_path / "x.gguf")
