"""llama.cpp's quantizer says nothing where it does not do what was asked; reading the file does."""

from collections import Counter

import numpy as np
import pytest
import torch

from feallm.export import gguf_quantize
from feallm.export.gguf import export_language
from feallm.model.config import LanguageConfig
from feallm.model.language import LanguageModel
from feallm.runtime.backends import llama
from feallm.runtime.contract.errors import BackendError, VerificationError

pytestmark = pytest.mark.skipif(
    llama.available() is not None, reason=llama.available() or "llama.cpp is there"
)


@pytest.fixture(scope="module")
def source(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantize") / "source.gguf"
    export_language(tiny.language(), tiny.tokenizer_json(), path)
    return path


@pytest.fixture(scope="module")
def importance(source):
    """One that weighs columns very differently."""
    import gguf

    rng = np.random.default_rng(0)
    return {
        tensor.name: rng.uniform(0.01, 10, int(tensor.shape[0])).astype(np.float32)
        for tensor in gguf.GGUFReader(source).tensors
        if len(tensor.shape) > 1
    }


@pytest.mark.parametrize(
    ("precision", "kinds"),
    [("q8_0", {"Q8_0"}), ("q6_k", {"Q6_K"}), ("q4_k_m", {"Q4_K", "Q6_K"})],
)
def test_matrices_get_the_type_that_was_asked_for(source, tmp_path, precision, kinds):
    out = tmp_path / "made.gguf"
    gguf_quantize.quantize(source, out, precision)
    found = gguf_quantize.tensor_types(out)
    assert set(found) == set(gguf_quantize.tensor_types(source))
    assert {kind for name, kind in found.items() if "norm" not in name} == kinds
    assert {kind for name, kind in found.items() if "norm" in name} == {"F32"}


@pytest.mark.parametrize("precision", ["q6_k", "q4_k_m"])
def test_a_width_that_k_quants_cannot_hold_is_told(tiny, tmp_path, monkeypatch, precision):
    """llama.cpp takes another type and ends well."""
    monkeypatch.setattr(LanguageConfig, "__post_init__", lambda self: None)
    torch.manual_seed(0)
    odd = LanguageModel(LanguageConfig(192, 1, 4, 384, tiny.CONFIG.language.vocabulary))
    export_language(odd, tiny.tokenizer_json(), tmp_path / "odd.gguf")
    with pytest.raises(VerificationError, match=f"not what {precision} stands for") as told:
        gguf_quantize.quantize(tmp_path / "odd.gguf", tmp_path / "made.gguf", precision)
    assert "multiples of 256, found [192, 384]" in told.value.line()
    gguf_quantize.quantize(tmp_path / "odd.gguf", tmp_path / "eight.gguf", "q8_0")


def test_a_file_of_another_precision_is_told(source, tmp_path):
    gguf_quantize.check_types(source, "fp16")
    with pytest.raises(VerificationError, match="not what q8_0 stands for"):
        gguf_quantize.check_types(source, "q8_0")
    out = tmp_path / "six.gguf"
    gguf_quantize.quantize(source, out, "q6_k")
    with pytest.raises(VerificationError, match="no tensor is Q4_K"):
        gguf_quantize.check_types(out, "q4_k_m")


@pytest.mark.parametrize("precision", ["q6_k", "q4_k_m"])
def test_importance_changes_the_file_and_not_its_types(source, importance, tmp_path, precision):
    plain, weighed, again = (tmp_path / name for name in ("plain", "weighed", "again"))
    gguf_quantize.quantize(source, plain, precision)
    gguf_quantize.quantize(source, weighed, precision, importance)
    gguf_quantize.quantize(source, again, precision, dict(reversed(importance.items())))
    assert plain.read_bytes() != weighed.read_bytes() == again.read_bytes()
    kinds = [Counter(gguf_quantize.tensor_types(path).values()) for path in (plain, weighed)]
    assert kinds[0] == kinds[1]


def test_important_columns_are_kept_better(source, importance, tmp_path):
    """The effect itself: the error of the columns that weigh most falls, in the matrix that has
    its own type in both files."""
    import gguf

    name = "blk.0.ffn_up.weight"
    errors = []
    for weights in (None, importance):
        out = tmp_path / f"{weights is None}.gguf"
        gguf_quantize.quantize(source, out, "q4_k_m", weights)
        exact, found = (
            next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
            for path in (source, out)
        )
        gap = gguf.dequantize(found.data, found.tensor_type) - exact.data.astype(np.float32)
        errors.append(float((gap**2).mean(0) @ importance[name]))
    assert errors[1] < 0.95 * errors[0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda held: {f"model.{name}": value for name, value in held.items()}, "unknown names"),
        (lambda held: dict(list(held.items())[1:]), "1 missing"),
        (lambda held: {**held, "blk.7.attn_q.weight": np.ones(256, np.float32)}, "1 unknown"),
    ],
)
def test_names_that_are_not_the_files_are_told(source, importance, tmp_path, change, match):
    """llama.cpp passes over them: the file would be the plain one."""
    with pytest.raises(VerificationError, match=match):
        gguf_quantize.quantize(source, tmp_path / "made.gguf", "q4_k_m", change(importance))


def test_importance_without_effect_is_told(source, importance, tmp_path, monkeypatch):
    """Were its names to change again in llama.cpp, the file would be the plain one."""
    monkeypatch.setattr(gguf_quantize, "check_names", lambda *_: None)
    renamed = {f"{name}?": value for name, value in importance.items()}
    with pytest.raises(VerificationError, match="changed nothing"):
        gguf_quantize.quantize(source, tmp_path / "made.gguf", "q4_k_m", renamed)


def test_why_the_quantizer_failed_is_told(source, importance, tmp_path):
    short = {**importance, "blk.0.ffn_up.weight": np.ones(128, np.float32)}
    with pytest.raises(BackendError, match="imatrix size 128 is different"):
        gguf_quantize.quantize(source, tmp_path / "made.gguf", "q4_k_m", short)
    with pytest.raises(BackendError, match="quantizer failed"):
        gguf_quantize.quantize(tmp_path / "absent.gguf", tmp_path / "made.gguf", "q4_k_m")
