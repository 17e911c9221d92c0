"""The whole model in one .pte, as it lies on the disk, against torch.

The eyes are two layers with the vision network's names; the words the tiny language model.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

pytest.importorskip("executorch", reason="writing .pte files needs executorch")
pytest.importorskip("torchao", reason="quantizing needs torchao")

from feallm.calibration.answers import Answer  # noqa: E402
from feallm.export import executorch  # noqa: E402
from feallm.export import executorch_words as writer  # noqa: E402
from feallm.export.cached import CachedDecoder, Int8TokenTable, TokenTable  # noqa: E402
from feallm.export.job import Job  # noqa: E402
from feallm.export.run import float_answers  # noqa: E402
from feallm.model.checkpoint import Checkpoint  # noqa: E402
from feallm.model.language import LoraLinear  # noqa: E402
from feallm.runtime.backends.base import IMAGE, VISION_OUTPUTS  # noqa: E402
from feallm.runtime.backends.executorch import (  # noqa: E402
    ExecutorchSession,
    ExecutorchVision,
    Program,
)
from feallm.runtime.contract.errors import UsageError, VerificationError  # noqa: E402
from feallm.runtime.language.wording import QUESTIONS  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own, of each other


class Eyes(torch.nn.Module):
    """A convolution and a matrix that answer as the vision network does."""

    sided = False

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(2)
        self.width = width
        self.encoder = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 16, 16))
        self.au_head = torch.nn.Linear(16 * 56, 68)
        self.token_mlp = torch.nn.Linear(56, width)

    def forward(self, crops):
        gray = crops.float().mean(3).unsqueeze(1) * (4 / 255) - 2
        deep = torch.relu(self.encoder(gray)).flatten(2)
        raw = self.au_head(deep.flatten(1))
        tokens = torch.cat([self.token_mlp(deep), self.token_mlp(deep[:, :1])], 1)
        intensity = raw[:, 20:60].unflatten(1, (20, 2)).clamp(0, 5)
        return raw[:, :20].sigmoid(), intensity, raw[:, 60:].softmax(1), tokens


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    made = Checkpoint(
        tiny.CONFIG,
        Eyes(tiny.CONFIG.language.width).eval(),
        tiny.language().requires_grad_(False),
        tiny.tokenizer_json(),
    )
    return Job(made, tiny.crops(8, seed=1), tiny.crops(8, seed=2), tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole(job):
    """The file in 8da4w; not to be changed."""
    path = job.scratch / "feallm.8da4w.pte"
    writer.make(job, "8da4w", path)
    return path


@pytest.fixture(scope="module")
def answered(job):
    """Random visual tokens, a question and random answers: random weights never end one."""
    rng = np.random.default_rng(4)
    width = job.checkpoint.config.language.width
    return [
        Answer(
            rng.normal(size=(17, width)).astype(np.float32),
            tuple(rng.integers(3, 300, 9).tolist()),
            tuple(rng.integers(3, 300, 24).tolist()),
        )
        for _ in range(3)
    ]


@torch.no_grad()
def test_step_by_step_the_decoder_is_the_language_model(tiny):
    language = tiny.language()
    decoder = CachedDecoder(language)
    embeddings = torch.randn(1, 40, language.config.width)
    expected = language(embeddings)[0]
    for cut in ([40], [17, 1, 22], [1] * 40):
        decoder.restart()
        at = 0
        for count in cut:
            found = decoder(embeddings[:, at : at + count], torch.arange(at, at + count))
            at += count
            torch.testing.assert_close(found[0], expected[at - 1], atol=1e-4, rtol=0)


def test_the_decoder_shares_the_language_models_weights(tiny):
    language = tiny.language()
    decoder = CachedDecoder(language)
    assert decoder.head.weight.data_ptr() == language.embed.weight.data_ptr()
    assert decoder.blocks[0].gate.weight.data_ptr() == language.blocks[0].gate.weight.data_ptr()


def test_lora_that_is_not_merged_is_our_mistake(tiny):
    language = tiny.language()
    language.add_lora(2, 4.0)
    assert isinstance(language.blocks[0].q, LoraLinear)
    with pytest.raises(ValueError, match="merged"):
        CachedDecoder(language)


def test_a_token_table_in_bytes_is_near_and_a_quarter(tiny):
    weight = tiny.language().embed.weight
    ids = torch.tensor([[0, 5, 399]])
    exact, near = TokenTable(weight)(ids), Int8TokenTable(weight)(ids)
    steps = weight[ids[0]].abs().amax(1) / 127
    assert ((exact - near).abs()[0] <= steps[:, None] * 0.501).all() and (exact != near).any()
    assert Int8TokenTable(weight).weight.dtype == torch.int8


def test_the_file_describes_itself(job, whole):
    program, config = Program(whole, 1), job.checkpoint.config
    numbers = {
        "get_max_seq_len": config.language.context,
        "get_max_context_len": config.language.context,
        "get_vocab_size": config.language.vocabulary,
        "get_bos_id": 1,
        "use_kv_cache": 1,
        "use_sdpa_with_kv_cache": 0,
        "enable_dynamic_shape": 1,
        "get_visual_tokens": config.vision.tokens + 1,
    }
    assert {name: program.number(name) for name in numbers} == numbers
    assert [int(one) for one in program.run("get_eos_ids", [])] == [2]
    methods = {"vision_encoder", "token_embedding", "text_decoder"}
    assert program.methods == {*numbers, "get_eos_ids", *methods}


def test_its_eyes_give_tokens_first_and_are_int8(tiny, job, whole):
    crops = tiny.crops(5, seed=9)
    first = Program(whole, 1).run("vision_encoder", [torch.from_numpy(crops[:1])])[0]
    found = ExecutorchVision(whole).run({IMAGE: crops})
    exact = float_answers(job.checkpoint.vision, crops)
    assert (first.numpy() == found["tokens"][:1]).all()
    assert set(found) == set(VISION_OUTPUTS)
    for name, value in exact.items():
        assert np.abs(found[name] - value).mean() < 0.02 * max(1, np.abs(value).max()), name
    assert (found["tokens"] != exact["tokens"]).any()


@torch.no_grad()
def test_its_words_are_the_quantized_models(job, whole, answered):
    checkpoint = job.checkpoint
    decoder, _ = writer.words(copy.deepcopy(checkpoint.language), "8da4w")
    found = writer.measure(checkpoint, decoder, whole, answered)
    assert found.tokens == 3 * 24
    assert found.eager < 0.3  # of the same model in torch, and
    assert 1e-5 < found.kl < writer.BARS["8da4w"].kl  # not the float one


@torch.no_grad()
def test_eight_bits_lie_nearer_than_four(job, whole, answered, tmp_path):
    checkpoint, path = job.checkpoint, tmp_path / "feallm.8da8w.pte"
    writer.make(job, "8da8w", path)
    gaps = {}
    for precision, file in (("8da4w", whole), ("8da8w", path)):
        decoder, _ = writer.words(copy.deepcopy(checkpoint.language), precision)
        gaps[precision] = writer.measure(checkpoint, decoder, file, answered).kl
    assert 0 < gaps["8da8w"] < 0.2 * gaps["8da4w"]
    assert path.stat().st_size > whole.stat().st_size


def test_a_session_reads_the_file(tiny, job, whole, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tiny.tokenizer_json(), encoding="utf-8")
    config = job.checkpoint.config.language
    session = ExecutorchSession(whole, tokenizer=path, width=config.width, context=config.context)
    session.see(ExecutorchVision(whole).run({IMAGE: tiny.crops(1)})["tokens"][0])
    session.feed(session.tokenize(QUESTIONS[0] + "\n"))
    assert len(list(session.generate(20))) > 0
    assert session.provider == "executorch (XNNPACK)"


def test_xnnpack_gets_all_that_is_heavy_and_weights_are_small(job, whole):
    found = executorch.delegated(whole)
    assert not found.heavy and found.share > executorch.LEAST_DELEGATED
    checkpoint = job.checkpoint
    expected = writer.expected_bytes(checkpoint.language, "8da4w")
    assert expected < 0.3 * writer.expected_bytes(checkpoint.language, "fp32")
    eyes = executorch.expected_bytes(checkpoint.vision, "int8")
    assert eyes + 0.9 * expected < whole.stat().st_size < 1.3 * (eyes + expected)


def test_the_file_says_nothing_of_how_it_was_made(whole):
    data = whole.read_bytes()
    for trace in (b"/home", b"/root", b"/work", b"/tmp", b"site-packages", b".py", b"Traceback"):
        assert trace not in data, trace


def only_words(job, path, precision):
    """The words of a checkpoint, without eyes."""
    language = copy.deepcopy(job.checkpoint.language)
    decoder, table = writer.words(language, precision)
    path.write_bytes(executorch.lower(writer.traced(decoder, table), writer.facts(job.checkpoint)))
    return decoder


def test_float_words_are_torchs(job, answered, tmp_path):
    decoder = only_words(job, tmp_path / "words.pte", "fp32")
    writer.agree(job.checkpoint, decoder, tmp_path / "words.pte", answered, writer.BARS["fp32"])


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(job, whole, tmp_path):
    writer.make(job, "8da4w", tmp_path / "again.pte")
    assert (tmp_path / "again.pte").read_bytes() == whole.read_bytes()


def test_weights_alone_in_8_bits_are_caught(job, whole, answered, monkeypatch, tmp_path):
    """XNNPACK computes them wrongly, says nothing, and stores them several times (row 7)."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    checkpoint = job.checkpoint
    good, _ = writer.words(copy.deepcopy(checkpoint.language), "8da4w")
    writer.agree(checkpoint, good, whole, answered, writer.BARS["8da4w"])
    monkeypatch.setattr(
        writer, "quantize", lambda model, precision: quantize_(model, Int8WeightOnlyConfig())
    )
    path = tmp_path / "planted.pte"
    decoder = only_words(job, path, "8da4w")
    with pytest.raises(VerificationError, match="differs from the same model's in torch by"):
        writer.agree(checkpoint, decoder, path, answered, writer.BARS["8da4w"])
    with pytest.raises(VerificationError, match="bytes, at most"):
        executorch.check_size(path, writer.expected_bytes(checkpoint.language, "8da4w"))


def test_another_models_words_do_not_agree(tiny, job, whole, answered):
    other = Checkpoint(tiny.CONFIG, job.checkpoint.vision, tiny.language(8), tiny.tokenizer_json())
    decoder, _ = writer.words(copy.deepcopy(job.checkpoint.language), "8da4w")
    with pytest.raises(VerificationError, match="nats from float torch's"):
        writer.agree(other, decoder, whole, answered, writer.BARS["8da4w"])


def test_a_checkpoint_without_words_and_another_precision_are_refused(tiny, job, tmp_path):
    silent = Job(Checkpoint(tiny.CONFIG, job.checkpoint.vision), job.crops, job.held_out, tmp_path)
    with pytest.raises(UsageError, match="no language model"):
        writer.make(silent, "fp32", tmp_path / "x.pte")
    with pytest.raises(UsageError, match="no precision int8"):
        writer.make(job, "int8", tmp_path / "x.pte")
    assert list(tmp_path.iterdir()) == []
