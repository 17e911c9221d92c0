"""`feallm sign`: say with a private key that a bundle is one's own."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from feallm.edge.terminal import results
from feallm.runtime.bundle import signature
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import FeallmError, InputError, LimitError, UsageError
from feallm.runtime.contract.manifest import MANIFEST, SIGNATURE


def sign_bundle(folder: Path, key: Path, public: Path | None = None) -> None:
    """Check a bundle, sign its manifest in place of any signature that is there, and print by whom.

    public: where the public key goes, as PEM. `InputError` for a key that cannot be used,
    `BundleError` for a bundle that is not whole, `UsageError`, `LimitError` where one of the files
    cannot be written; the bundle then is as it was.
    """
    private = signature.private_key(key)
    bundle = open_bundle(folder)
    signed = bundle.root / SIGNATURE
    manifest = (bundle.root / MANIFEST).read_bytes()
    data = signature.made(private, manifest)
    signer = signature.check(signed, data, manifest)
    if public is not None:
        _write_public(public, signature.pem_of(private.public_key()), bundle.root)
    _replace(signed, data)
    console = results()
    for name, value in (
        ("signed", str(bundle.root)),
        ("digest", bundle.digest),
        ("public key", signer),
    ):
        console.print(f"{name:<14}{value}", soft_wrap=True)


def _write_public(path: Path, pem: bytes, bundle: Path) -> None:
    """Write the public key, unless the file holds it already."""
    if bundle in path.resolve().parents:
        raise UsageError(
            f"{path}: lies in the bundle, which may hold nothing but what its manifest names",
            hint="keep the key elsewhere: the device must have it before the bundle comes",
        )
    try:
        with path.open("xb") as file:
            file.write(pem)
    except FileExistsError:
        try:
            same = signature.pem_of(signature.public_key(path)) == pem
        except InputError:
            same = False
        if not same:
            raise UsageError(
                f"{path}: holds something else than this key's public half",
                hint="choose another file, or remove it",
            ) from None
    except OSError as error:
        raise _told(path, error) from error


def _replace(path: Path, data: bytes) -> None:
    """Write a file of the bundle, all of it or nothing.

    It is made beside the bundle: who opens that meanwhile must not find a file which the manifest
    does not know. Within, where only the bundle's folder may be written or is a disk of its own.
    """
    try:
        try:
            _replace_from(path.parent.parent, path, data)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EXDEV):
                raise
            _replace_from(path.parent, path, data)
    except OSError as error:
        raise _told(path, error) from error


def _replace_from(folder: Path, path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
            # As open to others as the manifest is: the device may read under another name.
            os.fchmod(handle, os.stat(path.parent / MANIFEST).st_mode & 0o777)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _told(path: Path, error: OSError) -> FeallmError:
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return LimitError(f"{path}: {reason}", hint="free some disk space")
    return UsageError(f"{path}: cannot be written: {reason}")
