"""Folder -> checked bundle: nothing of it is used before its manifest and every hash hold."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from feallm.runtime.contract.errors import BundleError
from feallm.runtime.contract.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Artifact,
    Manifest,
    digest,
    tree_sha256,
)

SHIPPED = ("edge", "clean")
"""The bundles inside the package, by name; the first is the one that is opened unasked."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An open bundle. The only thing that knows where the files lie."""

    root: Path
    manifest: Manifest

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


def open_bundle(path: Path | None = None) -> Bundle:
    """The bundle in a folder, a shipped one by its name, or the first of those; `BundleError` says
    what is wrong with it."""
    root = shipped_path() if path is None else Path(path)
    if str(path) in SHIPPED and not (root / MANIFEST).is_file():  # a bundle of that name is first
        root = shipped_path(str(path))
    manifest = _manifest(root)
    for name, artifact in manifest.artifacts.items():
        _check(root / artifact.file, name, artifact)
    return Bundle(root, manifest)


def _manifest(root: Path) -> Manifest:
    path = root / MANIFEST
    data = _bytes(path, absent=f"{root}: not a bundle: no {MANIFEST} in it")
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: not readable JSON: {error}") from error
    if not isinstance(fields, dict):
        raise BundleError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    version = fields.get("schema_version")
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path}: written in schema {version!r}; this version reads {SCHEMA_VERSION}",
            hint="export the checkpoint again with `feallm export`",
        )
    try:
        manifest = Manifest.model_validate(fields)
        found = digest(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "manifest"
        raise BundleError(f"{path}: {where}: {first['msg']}") from error
    except ValueError as error:
        raise BundleError(f"{path}: {error}") from error
    if found != manifest.digest:
        raise BundleError(
            f"{path}: its digest does not fit its fields", hint="the manifest was changed"
        )
    return manifest


def _bytes(path: Path, *, absent: str) -> bytes:
    """What is in a file of the bundle; `absent` says what it means that there is none."""
    try:
        if not path.is_file():
            raise BundleError(absent)
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error


def _check(path: Path, name: str, artifact: Artifact) -> None:
    size, found = measure(path, absent=f"{path}: artifact {name!r} is missing")
    if size != artifact.size_bytes:
        raise BundleError(f"{path}: {size} bytes instead of {artifact.size_bytes}")
    if found != artifact.sha256:
        raise BundleError(
            f"{path}: sha256 {found[:12]}… is not the manifest's {artifact.sha256[:12]}…",
            hint="the file was changed or damaged",
        )


def measure(path: Path, *, absent: str) -> tuple[int, str]:
    """Bytes and sha256 of a file, or of a folder with all that is in it; `BundleError` with the
    text `absent` where there is neither, and for links, which lead out of a bundle."""
    if not path.is_dir():
        data = _bytes(path, absent=absent)
        return len(data), hashlib.sha256(data).hexdigest()
    size, hashes = 0, {}
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            raise BundleError(f"{file}: a link, where a file of the bundle should be")
        if not file.is_dir():
            data = _bytes(file, absent=f"{file}: not a plain file")
            size += len(data)
            hashes[file.relative_to(path).as_posix()] = hashlib.sha256(data).hexdigest()
    return size, tree_sha256(hashes)
