"""`feallm sign` and `--require-signature`, and what a person is told of a damaged bundle."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.manifest import MANIFEST, SIGNATURE

FEALLM = [sys.executable, "-m", "feallm.edge.cli"]


@pytest.fixture
def bundle(toy_bundle, tmp_path):
    """A bundle in a folder of its own."""
    return Path(shutil.copytree(toy_bundle, tmp_path / "made" / "bundle"))


@pytest.fixture
def keys(tmp_path):
    """Two private keys as openssl writes them."""
    reason = "signatures need the library cryptography"
    ed25519 = pytest.importorskip(
        "cryptography.hazmat.primitives.asymmetric.ed25519", reason=reason
    )
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    paths = []
    for k in range(2):
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([k + 1]) * 32)
        paths.append(tmp_path / f"key-{k}.pem")
        paths[k].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_a_bundle_is_signed_and_asked_for(feallm, bundle, keys, tmp_path):
    public = tmp_path / "public.pem"
    code, out, err = feallm("sign", bundle, "--key", keys[0], "--public", public)
    assert (code, err) == (0, "")
    opened = open_bundle(bundle, signed_by=public)
    assert opened.signer in out and opened.digest in out and str(bundle) in out
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"], "nothing else is left"
    assert stat.S_IMODE((bundle / SIGNATURE).stat().st_mode) == stat.S_IMODE(
        (bundle / MANIFEST).stat().st_mode
    )
    code, out, _ = feallm("bundle", "show", bundle, "--require-signature", public)
    assert code == 0 and opened.digest in out


def test_signing_again_replaces(feallm, bundle, keys, tmp_path):
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    assert feallm("sign", bundle, "--key", keys[0], "--public", first)[0] == 0
    once = (bundle / SIGNATURE).read_bytes()
    assert feallm("sign", bundle, "--key", keys[0], "--public", first)[0] == 0
    assert (bundle / SIGNATURE).read_bytes() == once, "the same key, the same bytes"
    assert feallm("sign", bundle, "--key", keys[1], "--public", second)[0] == 0
    assert feallm("bundle", "show", bundle, "--require-signature", second)[0] == 0
    code, out, err = feallm("bundle", "show", bundle, "--require-signature", first)
    assert (code, out) == (4, "") and "by the key" in err and err.count("\n") == 1


@pytest.mark.parametrize("words", [["bundle", "show"], ["analyze", "x.png", "--bundle"]])
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_unsigned_bundle_is_refused_where_a_signature_is_required(
    feallm, bundle, keys, tmp_path, monkeypatch, words, by
):
    public = tmp_path / "public.pem"
    feallm("sign", bundle, "--key", keys[0], "--public", public)
    (bundle / SIGNATURE).unlink()
    assert feallm("bundle", "show", bundle)[0] == 0
    if by == "environment":
        monkeypatch.setenv("FEALLM_REQUIRE_SIGNATURE", str(public))
    more = [] if by == "environment" else ["--require-signature", public]
    code, out, err = feallm(*words, bundle, *more)
    assert (code, out) == (4, "") and "not signed" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [["live", "camera:0"], ["bench"], ["analyze", "x.png"], ["bundle", "show"]],
    ids=lambda words: words[0],
)
def test_the_shipped_bundle_bears_nobody_s_signature(feallm, bundle, keys, tmp_path, words):
    public = tmp_path / "public.pem"
    feallm("sign", bundle, "--key", keys[0], "--public", public)
    code, _, err = feallm(*words, "--require-signature", public)
    assert code == 4 and "not signed" in err and err.count("\n") == 1


def test_a_signed_bundle_reads(feallm, bundle, keys, tmp_path, photo):
    public = tmp_path / "public.pem"
    feallm("sign", bundle, "--key", keys[0], "--public", public)
    picture = photo(tmp_path / "in" / "x.png", 20)
    words = ["--bundle", bundle, "--require-signature", public, "--no-detect", "--json"]
    code, out, err = feallm("analyze", picture, *words)
    assert code == 0, err
    assert open_bundle(bundle).digest in out


def test_a_bundle_that_is_not_whole_is_not_signed(feallm, bundle, keys):
    (bundle / "more").write_text("x")
    code, out, err = feallm("sign", bundle, "--key", keys[0])
    assert (code, out) == (4, "") and "not in the manifest" in err
    assert not (bundle / SIGNATURE).exists()


@pytest.mark.parametrize(
    ("key", "code"), [("missing.pem", 3), ("made", 3), ("made/bundle/manifest.json", 3)]
)
def test_a_key_that_is_none(feallm, bundle, keys, tmp_path, key, code):
    found, out, err = feallm("sign", bundle, "--key", tmp_path / key)
    assert (found, out) == (code, "") and err.count("\n") == 1
    assert not (bundle / SIGNATURE).exists()


def test_a_public_key_is_not_written_over_another(feallm, bundle, keys, tmp_path):
    public = tmp_path / "public.pem"
    for held in (b"precious", keys[0].read_bytes()):
        public.write_bytes(held)
        code, _, err = feallm("sign", bundle, "--key", keys[0], "--public", public)
        assert code == 2 and "holds something else" in err
        assert public.read_bytes() == held and not (bundle / SIGNATURE).exists()
    public.unlink()
    assert feallm("sign", bundle, "--key", keys[0], "--public", public)[0] == 0
    assert feallm("sign", bundle, "--key", keys[1], "--public", public)[0] == 2
    assert open_bundle(bundle, signed_by=public).signer is not None


@pytest.mark.parametrize("place", ["made/bundle/public.pem", "nowhere/public.pem"])
def test_a_public_key_that_cannot_lie_there(feallm, bundle, keys, tmp_path, place):
    code, _, err = feallm("sign", bundle, "--key", keys[0], "--public", tmp_path / place)
    assert code == 2 and err.count("\n") == 1
    assert sorted(path.name for path in bundle.iterdir()) == [MANIFEST, "vision.onnx"]
    assert open_bundle(bundle).signer is None


def test_a_disk_that_is_full_leaves_the_old_signature(feallm, bundle, keys, monkeypatch):
    feallm("sign", bundle, "--key", keys[0])
    before = open_bundle(bundle).signer

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feallm.edge.sign.os.fsync", full)
    code, _, err = feallm("sign", bundle, "--key", keys[1])
    assert code == 7 and "No space left" in err
    assert open_bundle(bundle).signer == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("number", [1, 13, 18, 30])
def test_a_bundle_whose_folder_alone_may_be_written(feallm, bundle, keys, monkeypatch, number):
    import tempfile

    make = tempfile.mkstemp

    def refuse(*, prefix, dir):
        if dir == bundle.parent:
            raise OSError(number, os.strerror(number))
        return make(prefix=prefix, dir=dir)

    monkeypatch.setattr("feallm.edge.sign.tempfile.mkstemp", refuse)
    assert feallm("sign", bundle, "--key", keys[0])[0] == 0
    assert open_bundle(bundle).signer is not None


def changed(path):
    data = bytearray((path / "vision.onnx").read_bytes())
    data[99] ^= 4
    (path / "vision.onnx").write_bytes(data)


def older(path):
    text = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(text.replace('"schema_version": 3', '"schema_version": 2'))


def spaced(path):
    (path / MANIFEST).write_text(json.dumps(json.loads((path / MANIFEST).read_text())))


def escaping(path):
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace("vision.onnx", "../v"))


def more(path):
    (path / "more\x1b[2J").mkdir()


def linked(path):
    (path / "vision.onnx").rename(path.parent / "away")
    (path / "vision.onnx").symlink_to("../away")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (changed, "changed or damaged"),
        (older, "written in schema 2"),
        (spaced, "not in the form"),
        (escaping, "artifacts.vision.file"),
        (more, "no name of a bundle's file"),
        (linked, "a link, where a file should be"),
    ],
)
def test_a_damaged_bundle_is_one_line_and_exit_code_4(bundle, damage, words):
    """In a process of its own: nothing but the line, no trace."""

    def show():
        command = [*FEALLM, "bundle", "show", bundle]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    if damage is changed:
        assert show().returncode == 0
    damage(bundle)
    done = show()
    assert (done.returncode, done.stdout) == (4, "")
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert done.stderr.rstrip("\n").isprintable() and "Error" not in done.stderr
