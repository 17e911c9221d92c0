"""Limits for every file that can be made, narrower where more bits are left."""

import pytest

from feallm.export import tolerances
from feallm.export.matrix import EXPORTERS


@pytest.mark.parametrize("file", EXPORTERS)
def test_each_part_of_each_file_has_limits(file):
    found = tolerances.of(file)
    names = {"vision": "eyes", "language": "words"}
    assert set(found) == {names[part] for part in EXPORTERS[file].parts}
    if "eyes" in found:
        eyes = found["eyes"]
        assert eyes.au_same and eyes.expression_same and eyes.no_worse and eyes.tensors["tokens"]
    if "words" in found:
        assert found["words"].kl_mean and found["words"].same_top and found["words"].no_worse


def test_nothing_else_has_any():
    assert tolerances.of("golden.npz") == {} and tolerances.of("detector.onnx") == {}


@pytest.mark.parametrize(
    ("part", "files"),
    [
        ("eyes", ["vision.fp32.onnx", "vision.fp16.onnx", "vision.int8.onnx",
                  "vision.int6.mlpackage"]),
        ("words", ["language.fp16.gguf", "language.q8_0.gguf", "language.q6_k.gguf",
                   "language.q4_k_m.gguf"]),
    ],
)  # fmt: skip
def test_fewer_bits_may_lie_further_off(part, files):
    limits = [tolerances.of(file)[part] for file in files]
    for finer, coarser in zip(limits, limits[1:], strict=False):
        assert finer.no_worse >= coarser.no_worse and finer.points <= coarser.points
        assert finer.layers.error <= coarser.layers.error
        for name, limit in finer.tensors.items():
            assert limit.sqnr_db >= coarser.tensors[name].sqnr_db


def test_eight_bits_are_held_to_what_was_asked():
    """No worse on 97 % of the faces, half a point of accuracy and F1."""
    for file in ("vision.int8.onnx", "vision.int8.pte", "vision.int8.mlpackage"):
        limit = tolerances.of(file)["eyes"]
        assert limit.no_worse >= 0.97 and limit.points <= 0.5
    for file in ("language.q8_0.gguf", "feallm.8da8w.pte"):
        limit = tolerances.of(file)["words"]
        assert limit.no_worse >= 0.97 and limit.points <= 0.5
