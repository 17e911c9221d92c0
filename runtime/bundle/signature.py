"""Ed25519 signatures of a manifest: `manifest.sig` beside it, checked and made.

A signature covers the manifest's bytes, and by its hashes every file of the bundle. That the file
`manifest.sig` fits shows that nothing was damaged; only a key that is known beforehand shows who
made the bundle.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from feallm.runtime.contract.errors import BackendError, BundleError, InputError
from feallm.runtime.contract.manifest import Strict, canonical

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

MOST_BYTES = 1024
"""Of `manifest.sig`, which has 257."""
MOST_KEY_BYTES = 1 << 16
HINT = "pip install 'feallm-edge[sign]'"


class Signature(Strict):
    """What `manifest.sig` says, in the manifest's own form: `canonical`."""

    algorithm: Literal["Ed25519"]
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]


def check(path: Path, data: bytes, manifest: bytes) -> str:
    """The public key, in hex, that signed these bytes of a manifest; `data` is what the signature
    file at `path` holds. `BundleError` where it does not fit, or nothing here can tell."""
    try:
        stated = Signature.model_validate_json(data, strict=True)
    except ValidationError as error:
        raise BundleError(f"{path}: not a signature: {error.errors()[0]['msg']}") from error
    if canonical(stated.model_dump()) != data:
        raise BundleError(f"{path}: not a signature: written in another form than feallm's")
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise BundleError(
            f"{path}: cannot be checked: the library cryptography is not installed", hint=HINT
        ) from error
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(stated.public_key))
        key.verify(bytes.fromhex(stated.signature), manifest)
    except (InvalidSignature, ValueError) as error:
        raise BundleError(
            f"{path}: not the signature of this manifest",
            hint="one of the two was changed or damaged",
        ) from error
    return stated.public_key


def made(key: Ed25519PrivateKey, manifest: bytes) -> bytes:
    """What `manifest.sig` has to hold."""
    return canonical(
        {
            "algorithm": "Ed25519",
            "public_key": hex_of(key.public_key()),
            "signature": key.sign(manifest).hex(),
        }
    )


def hex_of(key: Ed25519PublicKey) -> str:
    """A public key as `manifest.sig` names it."""
    return key.public_bytes_raw().hex()


def pem_of(key: Ed25519PublicKey) -> bytes:
    """A public key as a PEM file, the same as openssl's."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_key(path: Path) -> Ed25519PublicKey:
    """From a PEM file. `InputError` where it holds none, `BackendError` without the library."""
    data = _key_bytes(path)
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise _without_library(path) from error
    if b"PRIVATE KEY-----" in data:
        raise InputError(
            f"{path}: a private key, where a public one is asked for",
            hint=f"openssl pkey -in {path} -pubout -out PUBLIC.pem",
        )
    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path}: not a public key in PEM form",
            hint="openssl pkey -in PRIVATE.pem -pubout -out PUBLIC.pem",
        ) from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: a key of another kind than Ed25519")
    return key


def private_key(path: Path) -> Ed25519PrivateKey:
    """From a PEM file without passphrase. `InputError` where it holds none, `BackendError` without
    the library."""
    data = _key_bytes(path)
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise _without_library(path) from error
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:  # the library's way to ask for a passphrase
        raise InputError(
            f"{path}: under a passphrase, which is not supported",
            hint=f"openssl pkey -in {path} -out PLAIN.pem",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(
            f"{path}: not a private key in PEM form",
            hint="openssl genpkey -algorithm ed25519 -out PRIVATE.pem",
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(
            f"{path}: a key of another kind than Ed25519",
            hint="openssl genpkey -algorithm ed25519 -out PRIVATE.pem",
        )
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_KEY_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a path"
        raise InputError(f"{path}: the key cannot be read: {why}") from error
    if len(data) > MOST_KEY_BYTES:
        raise InputError(f"{path}: not a key: more than {MOST_KEY_BYTES} bytes")
    return data


def _without_library(path: Path) -> BackendError:
    return BackendError(
        f"{path}: keys need the library cryptography, which is not installed", hint=HINT
    )
