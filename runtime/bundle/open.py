"""Folder -> checked bundle: nothing of it is used before its manifest, its signature where there is
one, the list of its files, every size and every hash hold, in this order."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from feallm.runtime.bundle import listing, signature
from feallm.runtime.bundle.listing import measure, shown
from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    SIGNATURE,
    Artifact,
    Manifest,
    canonical,
    digest,
)

__all__ = ["SHIPPED", "Bundle", "measure", "open_bundle", "shipped_path"]

SHIPPED = ("edge", "clean")
"""The bundles inside the package, by name; the first is the one that is opened unasked."""

MOST_BYTES = 1 << 20
"""Of a manifest; the shipped one has 7450."""

FOLDERS = {"mlpackage"}
"""The formats whose artifacts are folders."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle. The only thing that knows where the files lie."""

    root: Path
    manifest: Manifest
    signer: str | None = None  # public key of its signature, in hex; None: it has none

    @property
    def digest(self) -> str:
        """Names the bundle: two bundles with one digest hold the same files."""
        return self.manifest.digest

    def file(self, artifact: str) -> Path:
        """Path of an artifact by its name in the manifest."""
        if artifact not in self.manifest.artifacts:
            hint = f"it has {', '.join(self.manifest.artifacts)}"
            raise BundleError(f"{self.root}: no artifact named {artifact!r}", hint=hint)
        return self.root / self.manifest.artifacts[artifact].file

    def in_format(self, kind: str) -> str:
        """The first vision artifact of a format; `BundleError` where there is none."""
        for name in self.manifest.vision:
            if self.manifest.artifacts[name].format == kind:
                return name
        raise BundleError(f"{self.root}: no vision artifact in the format {kind}")


def shipped_path(name: str = SHIPPED[0]) -> Path:
    """The folder of a bundle inside the package."""
    return Path(__file__).parent / name


def open_bundle(path: Path | None = None, *, signed_by: Path | None = None) -> Bundle:
    """The bundle in a folder, a shipped one by its name, or the first of those; `BundleError` says
    what is wrong with it. signed_by: a public key in a PEM file; a bundle that it did not sign is
    refused, and `InputError` says what is wrong with the file."""
    wanted = None if signed_by is None else signature.hex_of(signature.public_key(Path(signed_by)))
    root = _root(path)
    data = listing.small(
        root / MANIFEST, MOST_BYTES, absent=f"{root}: not a bundle: no {MANIFEST} in it"
    )
    manifest = _manifest(root / MANIFEST, data)
    inside = listing.contents(root)
    signer = _signer(root, data, SIGNATURE in inside, wanted)
    _check_names(root, manifest, inside)
    found = {name: _sizes(root, artifact) for name, artifact in manifest.artifacts.items()}
    for name, artifact in manifest.artifacts.items():
        path = root / artifact.file
        sha256 = listing.sha256_of(path, found[name])
        if sha256 != artifact.sha256:
            raise BundleError(
                f"{path}: sha256 {sha256[:12]}… is not the manifest's {artifact.sha256[:12]}…",
                hint="the file was changed or damaged",
            )
    return Bundle(root, manifest, signer)


def _root(path: Path | None) -> Path:
    """The folder itself where `path` is a link to it: what is read later, the words, is then of
    the same version, even if the link is turned to another meanwhile."""
    root = shipped_path() if path is None else Path(path)
    if str(path) in SHIPPED and not os.path.isfile(root / MANIFEST):  # one of that name is first
        root = shipped_path(str(path))
    try:
        return root.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a zero in it, links in a circle
        raise BundleError(f"{root}: not a bundle: leads nowhere") from error


def _manifest(path: Path, data: bytes) -> Manifest:
    """What a manifest's bytes say, when they say it in the one form."""
    try:
        fields = json.loads(data.decode("utf-8"))
    except RecursionError as error:
        raise BundleError(f"{path}: not readable JSON: too deep") from error
    except ValueError as error:
        raise BundleError(f"{path}: not readable JSON: {shown(str(error))}") from error
    if not isinstance(fields, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: written in schema {shown(version, 40)}; this version reads {SCHEMA_VERSION}",
            hint="export the checkpoint again with `feallm export`",
        )
    _check_form(path, data, fields)
    try:
        manifest = Manifest.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {shown(where)}: {shown(first['msg'])}") from error
    misread = _misread(fields, manifest.model_dump(mode="json", exclude_unset=True))
    if misread is not None:
        raise BundleError(f"{path}: {shown(misread)}: Input should be of another type")
    if digest(fields) != manifest.digest:
        raise BundleError(
            f"{path}: its digest does not fit its fields", hint="the manifest was changed"
        )
    return manifest


def _misread(stated: object, read: object, where: str = "manifest") -> str | None:
    """Where the contract read another type than is written there: it takes "1" for 1, and `true`.
    (Its own strict mode refuses JSON's lists before pydantic 2.4.) A whole number is a number."""
    if isinstance(stated, dict) and isinstance(read, dict):
        pairs = [(stated.get(name), value, f"{where}.{name}") for name, value in read.items()]
    elif isinstance(stated, list) and isinstance(read, list):
        pairs = [(a, b, f"{where}.{k}") for k, (a, b) in enumerate(zip(stated, read, strict=False))]
    else:
        same = type(stated) is type(read) or (type(stated) is int and type(read) is float)
        return None if same else where
    return next((found for pair in pairs if (found := _misread(*pair)) is not None), None)


def _check_form(path: Path, data: bytes, fields: dict[str, object]) -> None:
    try:
        same = canonical(fields) == data
    except (ValueError, RecursionError) as error:  # NaN, half a character
        raise BundleError(f"{path}: holds what JSON in UTF-8 cannot say") from error
    if not same:
        raise BundleError(
            f"{path}: not in the form that `feallm export` writes: order, spaces, doubled names",
            hint="the manifest was changed or damaged",
        )


def _signer(root: Path, manifest: bytes, there: bool, wanted: str | None) -> str | None:
    """The public key that signed the manifest, in hex; None where none did and none is wanted."""
    path = root / SIGNATURE
    if not there:
        if wanted is not None:
            raise BundleError(
                f"{root}: not signed, and a signature by {wanted[:12]}… is required",
                hint="`feallm sign` makes one",
            )
        return None
    data = listing.small(path, signature.MOST_BYTES, absent=f"{path}: is not there")
    signer = signature.check(path, data, manifest)
    if wanted is not None and signer != wanted:
        raise BundleError(f"{path}: by the key {signer[:12]}…, not by {wanted[:12]}…")
    return signer


def _check_names(root: Path, manifest: Manifest, inside: dict[str, os.stat_result]) -> None:
    """Everything is there, everything is what it should be, and nothing else is."""
    for name, artifact in manifest.artifacts.items():
        path, entry = root / shown(artifact.file), inside.get(artifact.file)
        if entry is None:
            raise BundleError(f"{path}: artifact {shown(repr(name))} is missing")
        folder = artifact.format in FOLDERS
        if not (stat.S_ISDIR if folder else stat.S_ISREG)(entry.st_mode):
            what = listing.kind(entry.st_mode)
            raise BundleError(f"{path}: {what}, where a {'folder' if folder else 'file'} should be")
    files = {artifact.file for artifact in manifest.artifacts.values()}
    for name in sorted(set(inside) - files - {MANIFEST, SIGNATURE}):
        raise BundleError(f"{root / name}: not in the manifest", hint="remove it, or move it away")


def _sizes(root: Path, artifact: Artifact) -> listing.Sizes:
    path = root / artifact.file
    found = listing.sizes(path)
    size = sum(found.values())
    if size != artifact.size_bytes:
        raise BundleError(f"{path}: {size} bytes instead of {artifact.size_bytes}")
    return found
