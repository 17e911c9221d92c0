"""The vision package against torch, and what must not pass as one."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from feallm.export import coreml
from feallm.export.job import Job
from feallm.export.mil import MilProgram, restored
from feallm.model.attention import Attention
from feallm.model.checkpoint import Checkpoint
from feallm.model.config import Config, VisionConfig
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import ALL_OUTPUTS, AU_INTENSITY, AU_SIDES, IMAGE, TOKENS
from feallm.runtime.contract.errors import UsageError, VerificationError

pytest.importorskip("coremltools", reason="Core ML packages need coremltools")

EYES = VisionConfig(
    (4, 8, 8, 16), (1, 1, 0, 0), shrink=1, width=32, heads=4, fold=2, mirror=True, place=4, near=4
)
"""Everything that the shipped network has, small: mirror, fold, places, sides."""


def network(tiny, config=EYES):
    torch.manual_seed(1)
    made = VisionNetwork(config, tiny.CONFIG.language.width)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    made.temperature.fill_(1.3)
    return made.eval()


@pytest.fixture(scope="module")
def job(tiny, tmp_path_factory):
    config = Config("small", EYES, tiny.CONFIG.language)
    made = Checkpoint(config, network(tiny))
    return Job(made, tiny.crops(4), tiny.crops(16, seed=7), tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def packages(job, tmp_path_factory):
    """A package of each precision; not to be changed."""
    folder = tmp_path_factory.mktemp("packages")
    result = {precision: folder / f"{precision}.mlpackage" for precision in coreml.BARS}
    for precision, path in result.items():
        coreml.make(job, precision, path)
    return result


@pytest.mark.parametrize("precision", coreml.BARS)
def test_a_package_answers_as_the_network_does(precision, packages, job):
    found = coreml.measure(job, packages[precision])
    assert set(found) == {*ALL_OUTPUTS, *(coreml.STORED + name for name in ALL_OUTPUTS)}
    coreml.judge(packages[precision], found, coreml.BARS[precision])
    assert 0 < found[coreml.STORED + AU_INTENSITY] < 1e-3


def test_fewer_bits_are_stored_and_cost_more(packages, job):
    apart = [coreml.measure(job, path)[TOKENS] for path in packages.values()]
    assert apart == sorted(apart) and apart[0] < apart[1] / 2 < apart[2] / 4
    stored = [MilProgram(path).stored_as for path in packages.values()]
    eight, six = "constexpr_affine_dequantize", "constexpr_lut_to_dense"
    assert [kinds[eight] > 3 for kinds in stored] == [False, True, False]
    assert (stored[2][eight], stored[2][six]) == (1, stored[1][eight] - 1)  # the place head


def test_the_network_without_places_mirror_and_sides(tiny, tmp_path):
    """The tiny one, whose picture is shrunk."""
    made = Checkpoint(tiny.CONFIG, tiny.vision())
    job = Job(made, tiny.crops(2), tiny.crops(12, seed=3), tmp_path)
    coreml.make(job, "fp16", tmp_path / "v.mlpackage")
    assert len(coreml.measure(job, tmp_path / "v.mlpackage")) == 8


def test_the_picture_goes_in_as_it_is(packages, job):
    """8 bits a colour; what makes numbers of them lies inside, so nobody can get it wrong."""
    program = MilProgram(packages["fp16"])
    (picture,) = program.spec.description.input
    kind = picture.type.imageType
    assert (picture.name, kind.width, kind.height) == (IMAGE, 112, 128)
    assert kind.colorSpace == kind.RGB and not program.spec.mlProgram.docString
    crop = job.held_out[1]
    found = program.run({IMAGE: crop.transpose(2, 0, 1)[None].astype(np.float32)})
    exact = job.checkpoint.vision(torch.from_numpy(crop[None]))
    assert set(found) == set(ALL_OUTPUTS)
    for name, value in zip(ALL_OUTPUTS, exact, strict=True):
        assert found[name].shape == value.shape
        np.testing.assert_allclose(found[name], value.detach().numpy(), rtol=0, atol=0.02)


def test_outputs_are_float32(packages):
    """An app on an Intel Mac has no float16."""
    outputs = MilProgram(packages["fp16"]).spec.description.output
    assert {one.type.multiArrayType.dataType for one in outputs} == {65568}
    assert all(one.shortDescription for one in outputs)


def planted(monkeypatch, change):
    """Have `make` convert another network than it is asked for."""
    monkeypatch.setattr(coreml, "CHECKED", 3)  # enough for faults of this size
    true = coreml._converted

    def wrong(network):
        other = copy.deepcopy(network)
        change(other)
        return true(other)

    monkeypatch.setattr(coreml, "_converted", wrong)


def fewer_heads(network):
    for module in network.modules():
        if isinstance(module, Attention):
            module.heads = 2


def blunt_norms(network):
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 0.05


def no_temperature(network):
    network.temperature.fill_(1.0)


def other_weights(network):
    with torch.no_grad():
        network.au_head.weight[3] *= -1


def wide_values(network):
    with torch.no_grad():
        network.mpp.place_deep[:, 0] += 400


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (fewer_heads, "stored tokens"),
        pytest.param(blunt_norms, "stored tokens", marks=pytest.mark.slow),
        pytest.param(no_temperature, "stored expression", marks=pytest.mark.slow),
        pytest.param(other_weights, "au_probability", marks=pytest.mark.slow),
        (wide_values, r"layer_norm\) is the first whose result is not finite"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_program_that_is_not_the_network_is_caught(change, said, job, monkeypatch, tmp_path):
    planted(monkeypatch, change)
    with pytest.raises(VerificationError, match=said):
        coreml.make(job, "fp16", tmp_path / "v.mlpackage")
    assert not (tmp_path / "v.mlpackage").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"scale": 1 / 255}, pytest.param({"bias": [-10, -10, -10]}, marks=pytest.mark.slow)],
    ids=["scaled", "shifted"],
)
def test_pictures_that_are_made_numbers_of_twice_are_caught(wrong, job, monkeypatch, tmp_path):
    import coremltools as ct

    true = ct.ImageType
    monkeypatch.setattr(coreml, "CHECKED", 3)
    monkeypatch.setattr(ct, "ImageType", lambda name, **fields: true(name, **fields, **wrong))
    with pytest.raises(VerificationError, match="differs from torch"):
        coreml.make(job, "fp16", tmp_path / "v.mlpackage")


def test_a_package_that_asks_for_blue_first_is_caught(packages, job, tmp_path):
    """The same planes reach the interpreter, so that answers alone would not show it."""
    path = tmp_path / "v.mlpackage"
    shutil.copytree(packages["fp16"], path)
    assert coreml.measure(job, path)
    spec = MilProgram(path).spec
    spec.description.input[0].type.imageType.colorSpace = 30  # BGR
    (path / "Data/com.apple.CoreML/model.mlmodel").write_bytes(spec.SerializeToString())
    with pytest.raises(VerificationError, match=r"takes \('imageType', 112, 128, 30\)"):
        coreml.measure(job, path)


@pytest.mark.slow
def test_arrays_instead_of_pictures_are_caught(job, monkeypatch, tmp_path):
    import coremltools as ct

    plain = ct.TensorType
    monkeypatch.setattr(ct, "ImageType", lambda name, shape, **_: plain(name, shape=shape))
    with pytest.raises(VerificationError, match="multiArrayType"):
        coreml.make(job, "fp16", tmp_path / "v.mlpackage")


def test_a_weight_that_is_not_stored_is_named(packages, job, tiny):
    other = Checkpoint(
        job.checkpoint.config, network(tiny, VisionConfig(**{**vars_of(EYES), "near": 0}))
    )
    with pytest.raises(VerificationError, match=r"stores .* as \w+_head.weight, which is"):
        restored(coreml.portable(other.vision), MilProgram(packages["fp16"]))


def vars_of(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_sides_may_be_swapped_only_where_both_are_as_strong():
    """The stronger side gets the larger presence, so that near a tie rounding may turn them."""
    exact = {name: torch.zeros(1, 2) for name in (TOKENS,)}
    exact[TOKENS] += 1
    exact[AU_INTENSITY] = torch.tensor([[[1.0, 1.001], [1.0, 2.0]]])
    exact[AU_SIDES] = torch.tensor([[[0.2, 0.6], [0.2, 0.6]]])
    found = {name: value.numpy().copy() for name, value in exact.items()}
    found[AU_INTENSITY] += 0.002
    found[AU_SIDES][0, 0] = [0.6, 0.2]
    assert coreml._apart(found, exact)[AU_SIDES] == 0
    found[AU_SIDES][0, 1] = [0.6, 0.2]
    assert coreml._apart(found, exact)[AU_SIDES] == pytest.approx(0.4)


def tree(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in files(path)}


def files(path):
    return sorted(file for file in Path(path).rglob("*") if file.is_file())


def test_a_package_is_the_same_each_time_and_knows_no_place(packages, job, tmp_path):
    coreml.make(job, "int8", tmp_path / "v.mlpackage")
    assert tree(packages["int8"]) == tree(tmp_path / "v.mlpackage")
    for path in packages.values():
        everything = b"".join(tree(path).values())
        for word in (
            "/work",
            "/tmp",
            "/home",
            str(Path(coreml.__file__).parent),
            "conversion_date",
        ):
            assert word.encode() not in everything


def test_the_manifest_names_what_is_there(packages):
    folder = packages["fp16"]
    fields = json.loads((folder / "Manifest.json").read_text())
    entries = fields["itemInfoEntries"]
    assert fields["rootModelIdentifier"] in entries and len(entries) == 2
    for entry in entries.values():
        assert (folder / "Data" / entry["path"]).exists()
    assert len(files(folder)) == 3


@pytest.mark.parametrize("precision", ["fp32", "int4", ""])
def test_a_precision_that_it_has_not(precision, job, tmp_path):
    with pytest.raises(UsageError, match="no precision"):
        coreml.make(job, precision, tmp_path / "v.mlpackage")


AGAIN = """
import sys
from pathlib import Path
import numpy as np
from feallm.export import coreml
from feallm.export.job import Job
from feallm.model.checkpoint import load
crops = np.random.default_rng(0).integers(0, 256, (12, 128, 112, 3), dtype=np.uint8)
job = Job(load(Path(sys.argv[1])), crops, crops, Path(sys.argv[2]))
for precision in coreml.BARS:
    coreml.make(job, precision, Path(sys.argv[2], f"{precision}.mlpackage"))
"""


@pytest.mark.slow
def test_another_process_writes_the_same(tiny, tmp_path):
    """Another seed of Python's hashes, too: sets and protobuf's maps then come in another order."""
    path = tiny.checkpoint(tmp_path)
    made = []
    for seed in ("1", "2"):
        (tmp_path / seed).mkdir()
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", AGAIN, path, tmp_path / seed],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        )
        made.append(tree(tmp_path / seed))
    assert made[0] == made[1] and len(made[0]) == 9
