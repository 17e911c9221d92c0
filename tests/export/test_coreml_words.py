"""The words' package against torch over whole answers, and what must not pass as one."""

import copy
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from feallm.calibration.answers import answers
from feallm.export import coreml_words
from feallm.export.job import Job
from feallm.export.mil import MilProgram
from feallm.model.checkpoint import Checkpoint
from feallm.runtime.backends import coreml
from feallm.runtime.backends.coreml import EMBEDDING, LOGITS, SEEN, TOKEN, CoremlSession
from feallm.runtime.contract.errors import UsageError, VerificationError

pytest.importorskip("coremltools", reason="Core ML packages need coremltools")


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    made = Checkpoint(tiny.CONFIG, tiny.vision(), tiny.language(), tiny.tokenizer_json())
    return Job(made, tiny.crops(4), tiny.crops(4, seed=7), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def packages(job, tmp_path_factory):
    """A package of each precision; not to be changed."""
    folder = tmp_path_factory.mktemp("packages")
    result = {precision: folder / f"{precision}.mlpackage" for precision in coreml_words.BARS}
    for precision, path in result.items():
        coreml_words.make(job, precision, path)
    return result


def steps(job, limit=coreml_words.CHECKED_TOKENS):
    (asked,) = answers(job.checkpoint, job.held_out[:1], limit=limit)
    return list(coreml_words._steps(1, asked))


@pytest.mark.parametrize("precision", coreml_words.BARS)
def test_a_package_answers_as_the_model_does(precision, packages, job):
    """Through its states, over every token of an answer with 17 visual ones before it."""
    taken = steps(job)
    assert sum(int(step[SEEN][0]) for step in taken) == 17 and len(taken) >= 48
    found = coreml_words.measure(job, packages[precision])
    assert all(value <= coreml_words.BARS[precision][name] for name, value in found.items())
    assert len(found) == 3 and min(found.values()) > 0


def test_int8_stores_eight_bits_and_the_table_of_embeddings_once(packages, tiny):
    full, small = (MilProgram(packages[name]) for name in ("fp16", "int8"))
    assert full.stored_as["constexpr_blockwise_shift_scale"] == 0
    # The table, and each layer's q, k, v, o, gate, up, down.
    matrices = 1 + 7 * tiny.CONFIG.language.layers
    assert small.stored_as["constexpr_blockwise_shift_scale"] == matrices
    shape = (tiny.CONFIG.language.vocabulary, tiny.CONFIG.language.width)
    for program in (full, small):
        assert [value.shape for value in program.weights().values()].count(shape) == 1


def test_what_a_call_does_not_look_at_changes_nothing(packages, job):
    program, states = MilProgram(packages["fp16"]), None
    for step in steps(job, 2)[:3]:  # the opening token, then two visual ones
        kept = program.new_states() if states is None else states
        other = {name: value.copy() for name, value in step.items()}
        if step[SEEN][0]:
            other[TOKEN] += 7
        else:
            other[EMBEDDING] = np.full_like(step[EMBEDDING], -3)
        twice = [program.run(one, dict(kept))[LOGITS] for one in (step, other)]
        np.testing.assert_array_equal(*twice)
        other = {**step, SEEN: 1 - step[SEEN]}
        assert np.abs(program.run(other, dict(kept))[LOGITS] - twice[0]).max() > 1e-3
        program.run(step, kept)
        states = kept


def test_a_new_answer_may_begin_over_the_states_of_an_old_one(packages, job):
    program = MilProgram(packages["fp16"])
    used, taken = program.new_states(), steps(job, 4)
    first = [program.run(step, used)[LOGITS] for step in taken]
    assert all(bool(state.any()) for state in used.values())
    again = [program.run(step, used)[LOGITS] for step in taken]
    np.testing.assert_allclose(again, first, atol=1e-5)


def shouting(job):
    """The same job with one channel of the visual tokens at 300, which torch does not mind."""
    made = copy.deepcopy(job.checkpoint)
    with torch.no_grad():
        made.vision.local_token.bias[5] = 300.0
        made.vision.token_mlp[2].bias[5] = 300.0
    return Job(made, job.crops, job.held_out, job.scratch)


def test_a_norm_that_leaves_float16_is_caught_and_the_safe_one_is_not(job, monkeypatch, tmp_path):
    """The square of 300 is infinite in float16, its inverse root 0, and all logits equal."""
    monkeypatch.setattr(coreml_words, "CHECKED_TOKENS", 4)
    coreml_words.make(shouting(job), "fp16", tmp_path / "safe.mlpackage")
    monkeypatch.setattr(coreml_words, "safe_norm", lambda x, norm: norm(x))
    coreml_words.make(job, "fp16", tmp_path / "quiet.mlpackage")  # small values are no trouble
    with pytest.raises(VerificationError, match=r"\((pow|mul)\) is the first whose"):
        coreml_words.make(shouting(job), "fp16", tmp_path / "unsafe.mlpackage")
    assert not (tmp_path / "unsafe.mlpackage").exists()


def forgets(cache, row, here):
    return cache * (1 - here) + row * here


def one_late(cache, row, here):
    return true_blend(cache, row, here.roll(1, 1))


true_blend = coreml_words.blend
DIFFERS = "differs from torch in logits"


@pytest.mark.parametrize(
    ("name", "wrong", "said"),
    [
        ("blend", forgets, "writes 0 states a step instead of 2"),
        pytest.param("blend", one_late, DIFFERS, marks=pytest.mark.slow),
        pytest.param("rotate", lambda x, cos, sin: x, DIFFERS, marks=pytest.mark.slow),
        ("_FAR", 0.0, DIFFERS),
    ],
    ids=["never written", "written one late", "not rotated", "reads ahead"],
)
def test_a_program_that_is_not_the_model_is_caught(name, wrong, said, job, monkeypatch, tmp_path):
    monkeypatch.setattr(coreml_words, name, wrong)
    monkeypatch.setattr(coreml_words, "CHECKED_TOKENS", 4)
    with pytest.raises(VerificationError, match=said):
        coreml_words.make(job, "fp16", tmp_path / "words.mlpackage")
    assert not (tmp_path / "words.mlpackage").exists()


@pytest.mark.parametrize("x", [0.0, 1e-6, 3e-3, 1.0, 900.0, 6e4])
def test_the_safe_norm_is_the_norm(x):
    norm = coreml_words.RmsNorm(64, 1e-5)
    torch.nn.init.normal_(norm.weight)
    values = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) * x
    torch.testing.assert_close(
        coreml_words.safe_norm(values[:1], norm), norm(values[:1]), rtol=1e-5, atol=1e-7
    )


@pytest.mark.slow
def test_a_package_is_the_same_each_time_and_knows_no_place(packages, job, tmp_path):
    coreml_words.make(job, "int8", tmp_path / "again.mlpackage")
    for file in packages["int8"].rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            again = tmp_path / "again.mlpackage" / file.relative_to(packages["int8"])
            assert data == again.read_bytes()
            assert not any(word in data for word in (b"/work", b"/tmp", b"/home", b"2.13"))


def test_without_words_there_is_nothing_to_make(job, tiny, tmp_path):
    silent = Job(Checkpoint(tiny.CONFIG, tiny.vision()), job.crops, job.held_out, tmp_path)
    with pytest.raises(UsageError, match="no language model"):
        coreml_words.make(silent, "fp16", tmp_path / "words.mlpackage")
    with pytest.raises(UsageError, match="no precision int6"):
        coreml_words.make(job, "int6", tmp_path / "words.mlpackage")


class Interpreted:
    """Stands in for `MLModel` on a Mac: the interpreter behind its calls."""

    def __init__(self, program):
        self._program = program

    def get_spec(self):
        return self._program.spec

    def make_state(self):
        return self._program.new_states()

    def predict(self, inputs, state):
        return self._program.run(inputs, state)


def test_a_session_says_what_torch_says(packages, job, tiny, monkeypatch, tmp_path):
    """The whole way of `CoremlSession` over the written package, greedily."""
    program = MilProgram(packages["fp16"])
    fake = ModuleType("coremltools")
    fake.ComputeUnit = SimpleNamespace(ALL="all")
    fake.models = SimpleNamespace(MLModel=lambda path, compute_units: Interpreted(program))
    monkeypatch.setattr(coreml, "platform", SimpleNamespace(system=lambda: "Darwin"))
    monkeypatch.setitem(sys.modules, "coremltools", fake)
    (tmp_path / "tokenizer.json").write_text(tiny.tokenizer_json())
    config = tiny.CONFIG.language
    session = CoremlSession(
        packages["fp16"],
        tokenizer=tmp_path / "tokenizer.json",
        width=config.width,
        context=config.context,
    )
    (asked,) = answers(job.checkpoint, job.held_out[:1], limit=20)
    for _ in range(2):  # the second time over the states of the first
        session.restart()
        session.see(asked.visual)
        session.feed(list(asked.question))
        said = b"".join(session.generate(20))
        assert said == b"".join(map(session.piece, asked.answer))
    assert len(asked.answer) == 20
