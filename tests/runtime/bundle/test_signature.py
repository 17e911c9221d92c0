"""A signature names its key, and is worth as much as what is known of that key."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from feallm.runtime.bundle import signature
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BackendError, InputError
from feallm.runtime.contract.manifest import MANIFEST, SIGNATURE, canonical


def test_a_signed_bundle(copy, keys):
    keys.sign(copy)
    expected = signature.hex_of(keys.private[0].public_key())
    assert open_bundle(copy).signer == expected
    assert open_bundle(copy, signed_by=keys.public[0]).signer == expected
    assert len((copy / SIGNATURE).read_bytes()) == 257


def test_the_form_of_the_file(copy, keys):
    keys.sign(copy)
    data = (copy / SIGNATURE).read_bytes()
    fields = json.loads(data)
    assert sorted(fields) == ["algorithm", "public_key", "signature"]
    assert data == canonical(fields) and fields["algorithm"] == "Ed25519"
    key = keys.private[0].public_key()
    key.verify(bytes.fromhex(fields["signature"]), (copy / MANIFEST).read_bytes())


def test_a_key_that_did_not_sign(copy, keys, refusal):
    assert "not signed" in refusal(copy, signed_by=keys.public[0])
    keys.sign(copy, 1)
    assert open_bundle(copy).signer is not None
    assert "by the key" in refusal(copy, signed_by=keys.public[0])


def test_another_manifest_under_a_good_signature(copy, keys, edit, refusal):
    keys.sign(copy)
    edit(name="another-toy")
    assert "not the signature of this manifest" in refusal(copy)
    assert "not the signature of this manifest" in refusal(copy, signed_by=keys.public[0])
    (copy / SIGNATURE).unlink()
    assert open_bundle(copy).manifest.name == "another-toy", "the digest fits: only a key tells"
    assert "not signed" in refusal(copy, signed_by=keys.public[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "not a signature"),
        (lambda data: data[:-1], "another form"),
        (lambda data: data + b"\n", "another form"),
        (lambda data: data.replace(b'"Ed25519"', b'"none"'), "Input should be 'Ed25519'"),
        (
            lambda data: data.replace(b'"Ed25519"', b'"none", "algorithm": "Ed25519"'),
            "another form",
        ),
        (lambda data: data.replace(b"}", b', "note": 1}'), "Extra inputs"),
        (lambda data: data + b" " * 2000, "1024 at most are read"),
        (lambda data: b"[" * 1000, "not a signature"),
    ],
    ids=["empty", "cut", "grown", "algorithm", "doubled", "more", "large", "deep"],
)
def test_something_else_than_a_signature(copy, keys, refusal, change, words):
    keys.sign(copy)
    path = copy / SIGNATURE
    path.write_bytes(change(path.read_bytes()))
    assert words in refusal(copy) and words in refusal(copy, signed_by=keys.public[0])


def test_without_the_library(copy, keys, refusal, monkeypatch):
    unsigned = open_bundle(copy).digest
    keys.sign(copy)
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    line = refusal(copy)
    assert "cryptography is not installed" in line and "feallm-edge[sign]" in line
    with pytest.raises(BackendError, match="cryptography") as caught:
        open_bundle(copy, signed_by=keys.public[0])
    assert "feallm-edge[sign]" in caught.value.line()
    (copy / SIGNATURE).unlink()
    assert open_bundle(copy).digest == unsigned


def test_a_bundle_without_signature_does_not_load_the_library(copy):
    code = (
        "import sys; from feallm import open_bundle; open_bundle(sys.argv[1]);"
        "print('cryptography' in sys.modules)"
    )
    # -I: the folder feallm/ of a checkout would hide an installed package.
    command = [sys.executable, "-I", "-c", code, copy]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.fixture
def key_files(keys, tmp_path):
    """Files that hold no key of the kind asked for, by name."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    form = (Encoding.PEM, PrivateFormat.PKCS8)
    ours, other = keys.private[0], ec.generate_private_key(ec.SECP256R1())
    made = {
        "ours": ours.private_bytes(*form, NoEncryption()),
        "public": keys.public[0].read_bytes(),
        "passphrase": ours.private_bytes(*form, BestAvailableEncryption(b"secret")),
        "curve": other.private_bytes(*form, NoEncryption()),
        "noise": b"\xff\0 no key",
        "cut": keys.public[0].read_bytes()[:60],
        "empty": b"",
        "large": b"x" * 100_000,
    }
    made["public curve"] = signature.pem_of(other.public_key())
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ours", "a private key, where a public one is asked for"),
        ("passphrase", "a private key, where a public one is asked for"),
        ("public curve", "another kind than Ed25519"),
        ("noise", "not a public key"),
        ("cut", "not a public key"),
        ("empty", "not a public key"),
        ("large", "more than 65536 bytes"),
        ("missing", "No such file"),
        (".", "Is a directory"),
        ("a\0b", "not a path"),
    ],
)
def test_something_else_than_a_public_key(copy, key_files, name, words):
    with pytest.raises(InputError, match=words) as caught:
        open_bundle(copy, signed_by=key_files / name)
    assert "\n" not in caught.value.line()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("public", "not a private key"),
        ("passphrase", "under a passphrase, which is not supported"),
        ("curve", "another kind than Ed25519"),
        ("noise", "not a private key"),
        ("empty", "not a private key"),
        ("large", "more than 65536 bytes"),
        ("missing", "No such file"),
    ],
)
def test_something_else_than_a_private_key(key_files, name, words):
    assert signature.private_key(key_files / "ours").sign(b"x")
    with pytest.raises(InputError, match=words):
        signature.private_key(key_files / name)


def test_keys_that_openssl_makes(keys, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", private],
        ["pkey", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    key = signature.private_key(private)
    assert signature.hex_of(signature.public_key(public)) == signature.hex_of(key.public_key())
    assert signature.pem_of(key.public_key()) == public.read_bytes()
