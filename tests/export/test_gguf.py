"""GGUF files against torch: same tokens for a text, same logits after visual tokens; and what is
silently wrong with a file is told before it counts."""

import ctypes
import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from feallm.export import gguf as writer
from feallm.export.job import Job
from feallm.export.parity import divergence, next_token_agreement
from feallm.model.checkpoint import load
from feallm.model.tokenizer import SPECIAL
from feallm.runtime.backends import llama
from feallm.runtime.backends.llama import LlamaSession
from feallm.runtime.contract.errors import UsageError, VerificationError

needs_llama = pytest.mark.skipif(
    llama.available() is not None, reason=llama.available() or "llama.cpp is there"
)


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    """Of the tiny network; not to be changed."""
    folder = tmp_path_factory.mktemp("gguf")
    checkpoint = load(tiny.checkpoint(folder))
    # As sure of its words as a trained one: random logits this large leave no bits to spare.
    torch.nn.init.constant_(checkpoint.language.norm.weight, 0.4)
    return Job(checkpoint, tiny.crops(8), tiny.crops(8, seed=1), folder)


@pytest.fixture(scope="module")
def checkpoint(job):
    return job.checkpoint


@pytest.fixture(scope="module")
def file(job):
    writer.make(job, "fp16", job.scratch / "made.gguf")
    return job.scratch / "made.gguf"


@pytest.fixture(scope="module")
def session(tiny, file):
    config = tiny.CONFIG.language
    session = LlamaSession(file, width=config.width, context=config.context)
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
def test_llama_and_torch_put_the_same_token_first(tiny, checkpoint, file):
    agreement = next_token_agreement(checkpoint, file, tiny.crops(4))
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
@pytest.mark.parametrize("precision", list(writer.MOST_APART))
def test_every_precision_is_made_the_same_twice(job, file, tmp_path, precision):
    """From nothing, too: the second job has a scratch folder of its own."""
    made = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        again = Job(job.checkpoint, job.crops, job.held_out, folder)
        writer.make(again, precision, folder / "made.gguf")
        made.append((folder / "made.gguf").read_bytes())
    assert made[0] == made[1]
    share = {"fp16": 1, "q8_0": 0.55, "q6_k": 0.45, "q4_k_m": 0.4}[precision]
    assert len(made[0]) <= share * file.stat().st_size


@needs_llama
def test_the_float_file_and_the_importance_are_made_once(job, tmp_path, monkeypatch):
    job = Job(job.checkpoint, job.crops, job.held_out, tmp_path)
    writer.make(job, "q6_k", tmp_path / "a.gguf")

    def refuse(*_):
        raise AssertionError("made again")

    monkeypatch.setattr(writer, "export_language", refuse)
    monkeypatch.setattr(writer.importance, "measure", refuse)
    writer.make(job, "q4_k_m", tmp_path / "b.gguf")
    writer.make(job, "q8_0", tmp_path / "c.gguf")


@needs_llama
@pytest.mark.parametrize("precision", ["fp16", "q8_0"])
def test_unpermuted_attention_is_caught(job, tmp_path, monkeypatch, precision):
    """The reordering of q and k is what people forget; the text that comes out is still fluent."""
    job = Job(job.checkpoint, job.crops, job.held_out, tmp_path)
    writer.make(job, precision, tmp_path / "good.gguf")
    (tmp_path / writer.FLOAT_FILE).unlink(missing_ok=True)
    monkeypatch.setattr(writer, "permuted", lambda weight, heads: weight)
    with pytest.raises(VerificationError, match="lies .* from torch's"):
        writer.make(job, precision, tmp_path / "planted.gguf")


@needs_llama
@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "default", None])
def test_another_pre_tokenizer_is_caught(job, tmp_path, monkeypatch, name):
    """llama.cpp reads the file without a word, and cuts texts otherwise."""
    import gguf

    add = gguf.GGUFWriter.add_tokenizer_pre
    monkeypatch.setattr(
        gguf.GGUFWriter, "add_tokenizer_pre", lambda self, _: name and add(self, name)
    )
    with pytest.raises(VerificationError, match="into other tokens"):
        writer.make(job, "fp16", tmp_path / "planted.gguf")


@needs_llama
def test_a_file_that_is_too_coarse_is_refused(job, tmp_path, monkeypatch):
    monkeypatch.setitem(writer.MOST_APART, "q4_k_m", 1e-7)
    with pytest.raises(VerificationError, match="at most 1e-07 is allowed"):
        writer.make(job, "q4_k_m", tmp_path / "made.gguf")


@needs_llama
def test_divergence_is_that_of_whole_distributions(job, checkpoint, file):
    """Against PyTorch's own KL, with the table of embeddings turned as the planted fault."""
    answered = writer.answers(checkpoint, job.held_out[:2])
    assert divergence(checkpoint, file, answered).mean < 1e-5
    before = checkpoint.language.norm.weight.clone()
    told = next_logits(checkpoint, answered)
    with torch.no_grad():
        checkpoint.language.norm.weight *= 1.5
    try:
        found = divergence(checkpoint, file, answered)
        changed = next_logits(checkpoint, answered)
    finally:
        with torch.no_grad():
            checkpoint.language.norm.weight.copy_(before)
    kl = torch.nn.functional.kl_div(
        told.log_softmax(1), changed.log_softmax(1), log_target=True, reduction="none"
    ).sum(1)
    assert found.tokens == len(kl)
    assert found.mean == pytest.approx(float(kl.mean()), rel=0.02) and found.mean > 1e-3
    assert found.median == pytest.approx(float(kl.median()), rel=0.05)
    assert found.worst_logit == pytest.approx(float((told - changed).abs().max()), rel=0.02)


@torch.no_grad()
def next_logits(checkpoint, answered):
    """Logits at each place that chooses a token of an answer, by reading the whole anew."""
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer)
    rows = []
    for one in answered:
        ids = torch.tensor([tokenizer.token_to_id("<bos>"), *one.question, *one.answer])
        texts = checkpoint.language.embed(ids)
        whole = torch.cat([texts[:1], torch.from_numpy(one.visual), texts[1:]])
        rows.append(checkpoint.language(whole[None])[0, -1 - len(one.answer) : -1])
    return torch.cat(rows)


def test_an_unknown_precision_is_refused(job, tmp_path):
    pytest.importorskip("llama_cpp")
    with pytest.raises(UsageError, match="no GGUF precision 'int3'") as told:
        writer.make(job, "int3", tmp_path / "made.gguf")
    assert "q4_k_m" in told.value.line()


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
