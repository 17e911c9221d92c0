"""Bundles to be damaged, and keys made of a fixed seed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from feallm.runtime.bundle.listing import measure
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import MANIFEST

PACKAGE = {
    "Manifest.json": b'{"rootModelIdentifier": "a"}\n',
    "Data/com.apple.CoreML/model.mlmodel": bytes(range(200)),
    "Data/com.apple.CoreML/weights/weight.bin": bytes(700),
}
"""What lies where in a package of Core ML's."""


@pytest.fixture
def copy(toy_bundle, tmp_path):
    """A bundle that may be damaged."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "bundle"))


@pytest.fixture
def edit(copy, toy):
    """Change the manifest's fields and its digest, so that only the change itself is wrong."""

    def change(**fields):
        toy.sign(copy, {**json.loads((copy / MANIFEST).read_text()), **fields})

    return change


def artifact(root, file, kind, precision, **more):
    """What a manifest says of a file that lies there."""
    size, sha256 = measure(root / file, absent=f"{file} was not written")
    stated = {"file": file, "format": kind, "precision": precision}
    return {**stated, "sha256": sha256, "size_bytes": size, **more}


@pytest.fixture(scope="session")
def rich_bundle(toy_bundle, toy, tmp_path_factory):
    """The toy with every kind of artifact: files, a folder, golden answers, a report."""
    root = tmp_path_factory.mktemp("rich") / "bundle"
    root.mkdir()
    shutil.copyfile(toy_bundle / "vision.onnx", root / "vision.onnx")
    for name, data in PACKAGE.items():
        (root / "eyes.mlpackage" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "eyes.mlpackage" / name).write_bytes(data)
    (root / "measured.json").write_text('{"artifacts": []}\n')
    golden = io.BytesIO()
    np.savez(golden, pictures=np.zeros((2, 4, 4, 3), np.uint8))
    (root / "golden.npz").write_bytes(golden.getvalue())
    limits = {"tensors": {"au_probability": {"sqnr_db": 20.0, "max": 0.05}}, "au_same": 0.99}
    fields = json.loads((toy_bundle / MANIFEST).read_text())
    fields["artifacts"] = {
        "vision": artifact(root, "vision.onnx", "onnx", "fp32", tolerance={"eyes": limits}),
        "eyes": artifact(root, "eyes.mlpackage", "mlpackage", "fp16", only_on=["coreml"]),
        "golden": artifact(root, "golden.npz", "npz", "text"),
        "report": artifact(root, "measured.json", "json", "text"),
    }
    fields |= {"vision": ["vision", "eyes"], "report": "report", "varies": {"report": "times"}}
    fields["golden"] = {"artifact": "golden", "crop_px": 0.5}
    toy.sign(root, fields)
    assert open_bundle(root).manifest.golden is not None
    return root


@pytest.fixture
def rich_copy(rich_bundle, tmp_path):
    """That, to be damaged."""
    return Path(shutil.copytree(rich_bundle, tmp_path / "rich"))


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """Two keys: `private` ones, their `public` files, and `sign(root, k)` to sign with one."""
    reason = "signatures need the library cryptography"
    ed25519 = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.ed25519", reason=reason
    )
    from feallm.runtime.bundle import signature

    folder = tmp_path_factory.mktemp("keys")
    seeds = (hashlib.sha256(name).digest() for name in (b"ours", b"another's"))
    private = [ed25519.Ed25519PrivateKey.from_private_bytes(seed) for seed in seeds]
    public = [folder / "ours.pem", folder / "another.pem"]
    for key, path in zip(private, public, strict=True):
        path.write_bytes(signature.pem_of(key.public_key()))

    def sign(root, k=0):
        data = (root / MANIFEST).read_bytes()
        (root / "manifest.sig").write_bytes(signature.made(private[k], data))

    return SimpleNamespace(private=private, public=public, sign=sign)


@pytest.fixture
def refusal():
    """The one line with which a bundle is refused."""

    def told(path, **asked) -> str:
        with pytest.raises(BundleError) as caught:
            open_bundle(path, **asked)
        assert caught.value.exit_code == 4
        line = caught.value.line()
        assert line and "\n" not in line
        return line

    return told
