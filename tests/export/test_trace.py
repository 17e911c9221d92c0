"""The bisect on files of the real exporters: a clean file names no layer, one whose network was
changed before its export names the layer that was changed."""

import copy

import numpy as np
import pytest
import torch

from feallm.calibration import faces
from feallm.export import coreml, gguf, gguf_quantize, int8
from feallm.export.onnx import export_vision, half
from feallm.export.trace import coreml_layers, language_layers, vision_layers
from feallm.model.checkpoint import load
from feallm.model.pixels import Pixels
from feallm.runtime.backends import llama
from feallm.runtime.backends.base import AU_SIDES, IMAGE, VISION_OUTPUTS
from feallm.runtime.backends.onnx import OnnxVision
from feallm.runtime.verify import trace_llama, trace_onnx
from feallm.runtime.verify.trace import FACES, LIMITS, drifts, first, pack, report

onnx = pytest.importorskip("onnx", reason="exporting needs onnx")

needs_llama = pytest.mark.skipif(
    llama.available() is not None, reason=llama.available() or "llama.cpp is there"
)

QUESTION = [40, 41, 42, 43, 44, 45]
OPENING = 1


@torch.no_grad()
def scaled(network, layer, by=1.05):
    """A copy with what this layer answers scaled."""
    network = copy.deepcopy(network)
    for value in network.get_submodule(layer).parameters():
        value.mul_(by)
    return network


class Eyes:
    """A network, faces, and what its layers say of the first of them."""

    def __init__(self, network, crops):
        self.network, self.crops = network, crops
        self.layers = vision_layers(network, crops[:FACES])
        self.names = [layer.name for layer in self.layers]

    def compare(self, path):
        return drifts(self.layers, trace_onnx.layers(path, self.crops[:FACES], self.names))


@pytest.fixture(scope="module")
def checkpoint(request):
    """The shipped one: what random weights answer hardly depends on the picture."""
    return load(request.config.rootpath / "model" / "checkpoints" / "edge.safetensors")


def coloured(crops):
    """Gray pictures, each tinted: the network reads luma, and gray would hide how it reads it."""
    tint = np.linspace((0.4, 0.8, 1.0), (1.0, 0.7, 0.3), len(crops))[:, None, None]
    return (crops * tint).astype(np.uint8)


@pytest.fixture(scope="module")
def shipped(checkpoint):
    """Its files take half a minute each, on two cores."""
    held_out = faces.load().held_out
    return Eyes(checkpoint.vision, coloured(held_out[:: len(held_out) // 32][:32]))


@pytest.fixture(scope="module")
def shipped_file(shipped, tmp_path_factory):
    path = tmp_path_factory.mktemp("shipped") / "clean.onnx"
    export_vision(shipped.network, path)
    return path


@pytest.fixture(scope="module")
def eyes(tiny):
    """The tiny network, its norms fitted to its maps as training leaves them: with random ones
    hardly anything of a picture would reach the end."""
    network, crops = tiny.vision(), tiny.crops(32, seed=1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    with torch.no_grad():
        network.encoder.train()(network.pixels(torch.from_numpy(crops)))
    return Eyes(network.eval(), crops)


@pytest.fixture(scope="module")
def clean(eyes, tmp_path_factory):
    path = tmp_path_factory.mktemp("trace") / "clean.onnx"
    export_vision(eyes.network, path)
    return path


ONCE = {"lca.attention.norm_query", "mpp.read_self.norm_query"}
"""Of an untrained network: the same as `norm_key`, so the exporter computes one of them."""
NO_NORM_AFTER = ("encoder.stages.2.1.norm", "near_conv", "au_head", "token_mlp.2")
SEEN_INSIDE = ("encoder.stages.0.0.1", "lca.project", "lca.attention.value")


def test_no_layer_of_a_clean_file_drifts(eyes, clean):
    found = eyes.compare(clean)
    assert first(found, LIMITS["fp32"]) is None, report(found, LIMITS["fp32"])
    assert max(one.error for one in found) < 1e-4
    assert {one.name for one in found} == set(eyes.names) - ONCE
    assert {"pixels", "encoder.stages.2.1", "mpp", "tokens"} <= set(eyes.names)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_layer_that_was_scaled_is_named(eyes, precision, tmp_path):
    network = scaled(eyes.network, "encoder.stages.2.1.norm")
    export_vision(half(network) if precision == "fp16" else network, tmp_path / "file.onnx")
    told = report(eyes.compare(tmp_path / "file.onnx"), LIMITS[precision])
    assert told.startswith("encoder.stages.2.1.norm: 1.05 times what it should be (error ")


def test_no_layer_of_a_clean_file_in_float16_drifts(eyes, tmp_path):
    export_vision(half(eyes.network), tmp_path / "file.onnx")
    found = eyes.compare(tmp_path / "file.onnx")
    assert first(found, LIMITS["fp16"]) is None, report(found, LIMITS["fp16"])
    assert {one.name for one in found} == set(eyes.names) - ONCE
    assert max(one.error for one in found) > 1e-4  # it does round


def swapped(self, crop):
    """`Pixels` with (x - .5) / .25 the wrong way round."""
    gray = torch.matmul(crop.float(), self.luma).squeeze(-1).unsqueeze(1) / 255
    picture = (gray - 0.25) / 0.5
    return picture if self.shrink == 1 else torch.nn.functional.avg_pool2d(picture, self.shrink)


def test_mean_and_standard_deviation_in_each_others_place(eyes, tmp_path, monkeypatch):
    monkeypatch.setattr(Pixels, "forward", swapped)
    export_vision(eyes.network, tmp_path / "file.onnx")
    found = eyes.compare(tmp_path / "file.onnx")
    told = report(found, LIMITS["fp32"])
    assert told.startswith("pixels: 0.5 times what it should be, plus 0.5 (error")
    assert told.endswith(f"; 0 of {len(found)} layers before it agree")


def test_int8_with_ranges_of_flat_pictures(eyes, clean, tmp_path):
    int8.quantize(clean, eyes.crops, tmp_path / "clean.onnx")
    int8.quantize(clean, np.full_like(eyes.crops[:4], 128), tmp_path / "flat.onnx")
    found = eyes.compare(tmp_path / "clean.onnx")
    assert first(found, LIMITS["int8"]) is None, report(found, LIMITS["int8"])
    assert max(one.error for one in found) > 5e-3  # it does round
    shown = {one.name for one in found}
    assert "encoder.stages.2.1.first.2" in shown and "encoder.stages.2.1.first.1" not in shown
    one = first(eyes.compare(tmp_path / "flat.onnx"), LIMITS["int8"])
    assert one is not None and one.name.startswith("encoder.") and "nothing " in one.line()


@pytest.mark.slow
def test_int8_of_the_shipped_network_with_ranges_of_black_pictures(shipped, shipped_file, tmp_path):
    """A black picture's own edges are strong, so what it cuts off is what faces have inside."""
    int8.quantize(shipped_file, faces.load().crops, tmp_path / "clean.onnx")
    int8.quantize(shipped_file, np.zeros_like(shipped.crops[:4]), tmp_path / "black.onnx")
    found = shipped.compare(tmp_path / "clean.onnx")
    assert first(found, LIMITS["int8"]) is None, report(found, LIMITS["int8"])
    one = first(shipped.compare(tmp_path / "black.onnx"), LIMITS["int8"])
    assert one is not None and one.name.startswith("encoder.")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("layer", [*NO_NORM_AFTER, *SEEN_INSIDE])
def test_the_layer_of_the_shipped_network_that_was_scaled(shipped, layer, precision, tmp_path):
    network = scaled(shipped.network, layer)
    export_vision(half(network) if precision == "fp16" else network, tmp_path / "file.onnx")
    told = report(shipped.compare(tmp_path / "file.onnx"), LIMITS[precision])
    assert told.startswith(f"{layer}: 1.05 times what it should be (error ")


@pytest.mark.slow
def test_red_and_blue_in_each_others_place(shipped, tmp_path):
    network = copy.deepcopy(shipped.network)
    network.pixels.luma.copy_(network.pixels.luma.flip(0))
    export_vision(network, tmp_path / "file.onnx")
    one = first(shipped.compare(tmp_path / "file.onnx"), LIMITS["fp32"])
    assert one is not None and one.name == "pixels"


def test_what_is_shown_is_what_runs(eyes, clean):
    """Asking for layers must not change what the file answers."""
    found = trace_onnx.layers(clean, eyes.crops[:FACES], [*eyes.names[:5], *VISION_OUTPUTS])
    answers = OnnxVision(clean).run({IMAGE: eyes.crops[:FACES]})
    for layer in found[5:]:
        assert layer.rms == float(np.sqrt(np.square(answers[layer.name], dtype=float).mean()))


def test_listening_leaves_nothing_behind(eyes):
    assert not any(module._forward_hooks for module in eyes.network.modules())
    assert not any(module._forward_pre_hooks for module in eyes.network.modules())


class Words:
    """A language model and what its layers say in one conversation."""

    def __init__(self, language, tokenizer, folder):
        self.language, self.tokenizer, self.folder = language, tokenizer, folder
        rng = np.random.default_rng(3)
        size = float(language.embed.weight.detach().std())
        width = language.config.width
        self.visual = rng.normal(0, size, (17, width)).astype(np.float32)
        self.layers = language_layers(language, OPENING, self.visual, QUESTION)

    def compare(self, precision, language=None):
        source = self.folder / "source.gguf"
        gguf.export_language(language or self.language, self.tokenizer, source)
        path = source
        if precision != "fp16":
            path = self.folder / "file.gguf"
            path.unlink(missing_ok=True)
            gguf_quantize.quantize(source, path, precision, None)
        context = self.language.config.context
        shown = trace_llama.layers(path, self.visual, QUESTION, context=context)
        return drifts(self.layers, shown)


@pytest.fixture(scope="module")
def words(checkpoint, tmp_path_factory):
    return Words(checkpoint.language, checkpoint.tokenizer, tmp_path_factory.mktemp("words"))


@needs_llama
@pytest.mark.parametrize("precision", ["fp16", "q8_0", "q6_k", "q4_k_m"])
def test_no_layer_of_a_clean_language_file_drifts(words, precision):
    found = words.compare(precision)
    assert [one.name for one in found] == [layer.name for layer in words.layers]
    assert first(found, LIMITS[precision]) is None, report(found, LIMITS[precision])


@needs_llama
@pytest.mark.parametrize("precision", ["fp16", "q8_0"])
@pytest.mark.parametrize("layer", ["blocks.1.down", "blocks.2.up", "blocks.0.v", "blocks.0.o"])
def test_the_layer_of_words_that_was_scaled_is_named(words, layer, precision):
    found = words.compare(precision, scaled(words.language, layer))
    assert report(found, LIMITS[precision]).startswith(f"{layer}: 1.05 times what it should be")


@needs_llama
@pytest.mark.parametrize("precision", ["fp16", "q8_0", "q4_k_m"])
def test_q_and_k_that_were_not_permuted_are_named(words, precision, monkeypatch):
    monkeypatch.setattr(gguf, "permuted", lambda weight, heads: weight)
    one = first(words.compare(precision), LIMITS[precision])
    assert one is not None and one.name == "blocks.0.q" and "unlike" in one.line()


@needs_llama
def test_rotary_positions_at_another_pace_show_where_attention_reads(words):
    language = copy.deepcopy(words.language)
    object.__setattr__(language.config, "rope_theta", language.config.rope_theta * 8)
    one = first(words.compare("fp16", language), LIMITS["fp16"])
    assert one is not None and one.name == "blocks.0.read"


def test_both_parts_are_small(eyes, words, tmp_path):
    np.savez_compressed(
        tmp_path / "layers.npz", **pack(eyes.layers, "eyes"), **pack(words.layers, "words")
    )
    assert (tmp_path / "layers.npz").stat().st_size < 150_000


def test_a_convolution_whose_norm_is_folded_in_is_no_layer(eyes):
    assert "encoder.stages.2.1.norm" in eyes.names
    assert not {"encoder.stages.2.1.second", "encoder.stages.2.1.first.0"} & set(eyes.names)
    assert len(set(eyes.names)) == len(eyes.names)
    assert AU_SIDES not in eyes.names  # rounding chooses the stronger of two like sides


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_no_layer_drifts_for_faces_that_nothing_was_calibrated_on(
    shipped, precision, shipped_file, tmp_path
):
    path = shipped_file
    if precision == "fp16":
        path = tmp_path / "fp16.onnx"
        export_vision(half(shipped.network), path)
    elif precision == "int8":
        path = tmp_path / "int8.onnx"
        int8.quantize(shipped_file, faces.load().crops, path)
    for part in np.array_split(faces.load().held_out, len(faces.load().held_out) // FACES):
        found = Eyes(shipped.network, part).compare(path)
        assert first(found, LIMITS[precision]) is None, report(found, LIMITS[precision])


@pytest.mark.slow
def test_a_package_of_core_ml(shipped, tmp_path):
    pytest.importorskip("coremltools", reason="converting needs coremltools")

    def compare(name, network):
        with coreml.quiet():
            coreml.write(coreml._converted(network), tmp_path / name, coreml._ABOUT)
        return drifts(
            shipped.layers, coreml_layers(tmp_path / name, shipped.crops[:FACES], shipped.names)
        )

    found = compare("clean.mlpackage", shipped.network)
    assert first(found, LIMITS["fp16"]) is None, report(found, LIMITS["fp16"])
    assert {"pixels", "encoder.stages.2.1.norm", "mpp.deep", *VISION_OUTPUTS} <= {
        one.name for one in found
    }
    for layer in ("encoder.stages.2.1.norm", "near_conv", "token_mlp.2"):
        found = compare(f"{layer}.mlpackage", scaled(shipped.network, layer))
        assert report(found, LIMITS["fp16"]).startswith(f"{layer}: 1.05 times what it should be")
