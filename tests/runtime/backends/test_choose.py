"""Which artifact is taken: the first that runs here, what was asked for, and why."""

import numpy as np
import pytest

from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends import choose, onnx
from feallm.runtime.backends.base import IMAGE
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BackendError, UsageError
from feallm.runtime.contract.manifest import Artifact

ONNX, PTE, GGUF = "vision.int8.onnx", "feallm.8da4w.pte", "language.q8_0.gguf"


def artifact(name, **more):
    _, precision, kind = name.split(".")
    return Artifact(
        file=name, format=kind, precision=precision, sha256="0" * 64, size_bytes=1, **more
    )


ARTIFACTS = {name: artifact(name) for name in (ONNX, PTE, GGUF)}


def without(*formats):
    """What is missing where these formats' engines are."""
    return lambda one: f"no {one.format} here" if one.format in formats else None


@pytest.mark.parametrize(
    ("names", "asked", "lacking", "taken", "why"),
    [
        ([PTE, ONNX], None, (), PTE, "first choice"),
        ([PTE, ONNX], None, ("pte",), ONNX, f"not {PTE}: no pte here"),
        ([PTE, ONNX], "onnx", (), ONNX, "was asked for"),
        ([PTE, ONNX], ONNX, (), ONNX, "was asked for"),
        ([PTE, ONNX], "executorch", (), PTE, "was asked for"),
        ([PTE, GGUF], "llama", ("pte",), GGUF, "was asked for"),
    ],
)
def test_what_is_taken(names, asked, lacking, taken, why):
    found = choose.choose(ARTIFACTS, names, asked, without(*lacking))
    assert found.artifact == taken and found.engine == choose.ENGINES[taken.rsplit(".", 1)[1]]
    assert why in found.why


def test_what_was_asked_for_is_not_replaced():
    with pytest.raises(BackendError, match="not feallm.8da4w.pte: no pte here"):
        choose.choose(ARTIFACTS, [PTE, ONNX], "executorch", without("pte"))


def test_nothing_runs():
    with pytest.raises(BackendError, match="no pte here; not vision.int8.onnx: no onnx here"):
        choose.choose(ARTIFACTS, [PTE, ONNX], None, without("pte", "onnx"))


def test_an_engine_that_the_bundle_has_nothing_for():
    with pytest.raises(UsageError, match="no 'coreml' in this bundle") as caught:
        choose.choose(ARTIFACTS, [PTE, ONNX], "coreml", without())
    assert "executorch, onnx" in caught.value.hint


def test_a_file_for_a_gpu_is_passed_over_without_one():
    """This machine's onnxruntime knows no TensorRT: the int8 file is faster on its cores."""
    gpu = artifact("vision.fp16.onnx", only_on=("tensorrt",))
    found = choose.choose({"gpu": gpu, "cores": ARTIFACTS[ONNX]}, ["gpu", "cores"])
    assert found.artifact == "cores" and "this onnxruntime has none of tensorrt" in found.why


def test_every_format_has_an_engine():
    formats = set(Artifact.model_fields["format"].annotation.__args__) - {"json", "npz"}
    assert set(choose.ENGINES) == formats


def test_a_provider_that_is_missing_is_told(toy_bundle):
    """ONNX Runtime itself drops it and says nothing."""
    path = open_bundle(toy_bundle).file("vision")
    backend = onnx.OnnxVision(path, providers=("tensorrt", "cuda", "cpu"))
    assert backend.provider == "CPUExecutionProvider"
    assert backend.passed_over == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert onnx.OnnxVision(path).passed_over == ()


def test_a_provider_that_fails_to_start_is_told(toy_bundle, monkeypatch):
    """It is listed as there, and the session runs without it all the same."""
    import onnxruntime

    there = [onnx.NAMES["cuda"], onnx.NAMES["cpu"]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    path = open_bundle(toy_bundle).file("vision")
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        backend = onnx.OnnxVision(path, providers=("cuda", "cpu"))
    assert backend.provider == onnx.NAMES["cpu"]
    assert backend.passed_over == (onnx.NAMES["cuda"],)


def test_tensorrts_engine_is_kept_only_where_a_service_says(monkeypatch):
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    name = onnx.NAMES["tensorrt"]
    assert onnx._with_options(name) == name
    monkeypatch.setenv("CACHE_DIRECTORY", "cache")
    assert onnx._with_options(name)[1]["trt_engine_cache_path"] == "cache"
    assert onnx._with_options(onnx.NAMES["cpu"]) == onnx.NAMES["cpu"]


def test_the_analyzer_says_what_it_took(toy_bundle):
    with Analyzer(toy_bundle, detect=False, vision_engine="onnx", threads=2) as analyzer:
        running = analyzer.running()
    assert running == {
        "vision": {
            "artifact": "vision", "engine": "onnx", "provider": "CPUExecutionProvider",
            "why": "vision was asked for",
        }
    }  # fmt: skip


def test_the_analyzer_refuses_what_the_bundle_has_not(toy_bundle):
    with pytest.raises(UsageError, match="no 'executorch'"):
        Analyzer(toy_bundle, detect=False, vision_engine="executorch")


def test_an_artifacts_own_thresholds_decide(toy_bundle, toy, tmp_path, monkeypatch):
    bundle = open_bundle(toy_bundle)
    picture = np.full((128, 112, 3), toy.BRIGHT, np.uint8)
    with Analyzer(bundle, detect=False) as analyzer:
        (reading,) = analyzer.read(picture).readings
    assert reading.aus["AU12"].present
    high = dict.fromkeys(bundle.manifest.thresholds, 1.0)
    own = bundle.manifest.artifacts["vision"].model_copy(update={"thresholds": high})
    manifest = bundle.manifest.model_copy(update={"artifacts": {"vision": own}})
    with Analyzer(type(bundle)(bundle.root, manifest), detect=False) as analyzer:
        (reading,) = analyzer.read(picture).readings
        assert analyzer.vision.run({IMAGE: picture[None]})
    assert not reading.aus["AU12"].present
