"""What `manifest.json` may say. The only place where the format of a bundle is written down.

A bundle may hold the same part, the eyes or the words, in several formats and precisions; the
manifest names them in the order in which its profile prefers them (`backends.choose`).

The digest is the sha256 of the manifest's canonical JSON (`canonical`) without the field `digest`
itself, so an accidental change of any field is caught when a bundle is opened. The file is that
form, byte for byte.
"""

from __future__ import annotations

import hashlib
import json
import math
from itertools import combinations
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feallm.runtime.contract.aus import AU_INDEX, AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.geometry import MEAN_POINTS_CROP, CropGeometry

SCHEMA_VERSION: Literal[3] = 3
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
Name = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=100)]
Text = Annotated[str, Field(pattern=r"^[\n\P{Cc}]*$", max_length=10_000)]
"""For people. It is shown in terminals, which obey control characters."""
Count = Annotated[int, Field(ge=0, le=2**40)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Megabytes = Annotated[int, Field(gt=0, le=10**6)]
XY = tuple[float, float]
Distance = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-200, le=200, allow_inf_nan=False)]
Format = Literal["onnx", "gguf", "pte", "mlpackage", "json", "npz"]
_DATA = ("json", "npz")  # formats that no engine runs
Precision = Literal[
    "fp32", "fp16", "int8", "int6", "q8_0", "q6_k", "q4_k_m", "8da8w", "8da4w", "text"
]  # fmt: skip
Part = Literal["eyes", "words"]
Provider = Literal["cpu", "xnnpack", "coreml", "cuda", "tensorrt"]


class Strict(BaseModel):
    """Unknown fields are errors: a bundle must not say what nobody reads."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _check_spread(points: tuple[XY, ...], least: float) -> None:
    """No crop can be laid through points that are one, or that lie on a line."""
    longest = max(math.dist(a, b) for a, b in combinations(points, 2))
    if min(math.dist(a, b) for a, b in combinations(points, 2)) < least:
        raise ValueError(f"two of the points coincide: they are less than {least:g} apart")
    twice = (  # the area of their triangle
        abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))
        for a, b, c in combinations(points, 3)
    )
    if max(twice) < least * longest:
        raise ValueError("the points lie on a line")


class Geometry(Strict):
    """The crop that the vision artifact expects."""

    width_px: Annotated[int, Field(ge=16, le=1024)]
    height_px: Annotated[int, Field(ge=16, le=1024)]
    points_px: tuple[XY, XY, XY, XY, XY]
    border: Annotated[int, Field(ge=0, le=255)]

    @model_validator(mode="after")
    def _inside(self) -> Geometry:
        width, height = self.width_px, self.height_px
        if not all(0 <= x < width and 0 <= y < height for x, y in self.points_px):
            raise ValueError("a point lies outside the crop")
        _check_spread(self.points_px, 1.0)
        return self

    def crop(self) -> CropGeometry:
        """The same as the type that `vision` computes with."""
        return CropGeometry(self.width_px, self.height_px, self.points_px, self.border)


class Preprocessing(Strict):
    """How pixels enter the vision artifact. Luma, scaling and shrinking lie inside its graph, so
    that no caller can get them wrong."""

    layout: Literal["NHWC"] = "NHWC"
    dtype: Literal["uint8"] = "uint8"
    colour: Literal["RGB"] = "RGB"
    interpolation: Literal["bilinear, by area when shrinking"] = "bilinear, by area when shrinking"
    mean_points: tuple[XY, XY, XY, XY, XY] = MEAN_POINTS_CROP
    """Shares of the sides: where the points of a picture that is a face crop already lie."""

    @model_validator(mode="after")
    def _inside(self) -> Preprocessing:
        if not all(0 <= x <= 1 and 0 <= y <= 1 for x, y in self.mean_points):
            raise ValueError("a mean point lies outside the picture")
        _check_spread(self.mean_points, 0.01)
        return self


class TensorLimit(Strict):
    """How far one output may lie from the golden one."""

    sqnr_db: Decibels  # at least: power of the golden values over that of the differences
    max: Distance | None = None
    """Largest difference; None where few bits are left, and it grows with the number of faces."""


class LayerLimit(Strict):
    """From where on a single layer drifts, rather than rounds: `runtime.verify.trace`."""

    error: Distance  # root mean square of the differences beside that of the values
    scale: Distance  # rounding makes values no larger on average: this tells where noise hides it


class Tolerance(Strict):
    """How far an artifact's answers may lie from the golden ones: `runtime.verify`. None: no
    limit, or nothing that this artifact answers."""

    tensors: dict[Name, TensorLimit] = {}  # outputs by name, and `logits`
    au_same: Share | None = None  # of the AU decisions, at least
    expression_same: Share | None = None  # of the faces
    expression_kl: Distance | None = None  # nats, mean
    intensity_icc: Share | None = None
    side_same: Share | None = None  # of the movements that are clearly stronger on one side
    no_worse: Share | None = None  # of the faces
    points: Distance | None = None
    """Of accuracy and of mean AU F1, in hundredths, that may be lost on faces with labels."""
    kl_mean: Distance | None = None  # of the next token, nats
    kl_tail: Distance | None = None  # 99.9 % of the tokens lie below
    same_top: Share | None = None  # of the tokens
    layers: LayerLimit | None = None  # where the engine shows them


class Artifact(Strict):
    """One file of the bundle, or one folder where the format is one (Core ML's packages)."""

    file: FileName
    format: Format
    precision: Precision
    sha256: Sha256  # of a folder: of its listing, `tree_sha256`
    size_bytes: Annotated[int, Field(gt=0, le=2**40)]
    only_on: tuple[Provider, ...] = ()  # worth taking only where one of these runs; () = anywhere
    thresholds: dict[str, Share] | None = None
    """Of AU probabilities, where so few bits are left (6 and fewer) that they were fitted again;
    else the manifest's hold."""
    tolerance: dict[Part, Tolerance] = {}  # of each part that it holds; {}: `verify` has no limits


class Golden(Strict):
    """Pictures that travel with the bundle and what the float network answers: `verify.golden`."""

    artifact: str
    crop_px: Distance  # that a corner of a crop may lie from the golden one's, pixels of the crop
    missed: Annotated[int, Field(ge=0, le=10**6)] = 0  # faces of the frames that may not be found


class Profile(Strict):
    """What kind of machine the bundle was made for."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    providers: tuple[Provider, ...] = ("cpu",)  # of ONNX Runtime, best first
    memory_mb: Megabytes  # that a process may take which holds all of it open
    size_mb: Megabytes  # that the bundle may weigh
    minimum_os: Text | None = None


class Language(Strict):
    """How the language model is asked: `begin` token, visual tokens, then question and answer."""

    artifacts: Annotated[tuple[str, ...], Field(min_length=1)]  # best first
    tokenizer: str | None = None  # artifact; engines other than llama.cpp need it
    visual_tokens: Annotated[int, Field(ge=1, le=1024)]
    width: Annotated[int, Field(ge=1, le=65536)]
    question: Text
    max_new_tokens: Annotated[int, Field(ge=8, le=1024)]
    context: Annotated[int, Field(ge=64, le=65536)]

    @model_validator(mode="after")
    def _room(self) -> Language:
        if self.visual_tokens + self.max_new_tokens >= self.context:
            raise ValueError("the context has no room for the visual tokens and an answer")
        return self


class Source(Strict):
    """A data set that the weights saw."""

    name: Text
    licence: Text
    rows: Count
    sha256: Text


class Training(Strict):
    """What made the weights."""

    size: Text
    command: Text
    seed: Seed
    checkpoint_sha256: Sha256
    sources: tuple[Source, ...]


class Detector(Strict):
    """How the face detector is asked, and what made it. The layout is YuNet's: OpenCV decodes."""

    artifact: str
    score: Share  # from which a face counts
    overlap: Share  # of two boxes, from which they are one face
    still_px: Annotated[int, Field(ge=32, le=4096)]  # longer side at which a photograph is searched
    video_px: Annotated[int, Field(ge=32, le=4096)]  # the same for frames of videos and cameras
    training: Training


class Manifest(Strict):
    """The whole description of a bundle."""

    schema_version: Literal[3]
    name: Name
    version: Name
    digest: Sha256
    licence: Text
    geometry: Geometry
    preprocessing: Preprocessing
    regions: tuple[Name, ...]
    aus: tuple[str, ...]
    aus_trained: tuple[str, ...]
    aus_sided: tuple[str, ...]  # trained with labels of each side apart
    expressions: tuple[str, ...]
    thresholds: dict[str, Share]
    intensity_calibrated: bool
    artifacts: dict[Name, Artifact]
    vision: Annotated[tuple[str, ...], Field(min_length=1)]  # artifacts, best first
    language: Language | None
    detector: Detector | None = None  # where a bundle has none, the first shipped one's is used
    profile: Profile | None = None  # None: made for no machine in particular
    report: str | None = None  # artifact: size, speed and error of every file
    golden: Golden | None = None  # None: `verify` needs a reference from elsewhere
    varies: dict[str, Text] = {}  # artifacts that come out a little different every time, and why
    training: Training
    notice: Text

    @field_validator("aus")
    @classmethod
    def _aus(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != AU_KEYS:
            raise ValueError("the AU order is not this version's")
        return value

    @field_validator("expressions")
    @classmethod
    def _expressions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != EXPRESSIONS:
            raise ValueError("the order of expressions is not this version's")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if unknown := set(self.aus_trained) - set(AU_INDEX):
            raise ValueError(f"unknown AUs in aus_trained: {sorted(unknown)}")
        if set(self.thresholds) != set(self.aus_trained):
            raise ValueError("thresholds and aus_trained name different AUs")
        if untrained := set(self.aus_sided) - set(self.aus_trained):
            raise ValueError(f"aus_sided names AUs that were not trained: {sorted(untrained)}")
        wanted = [*self.vision, self.report]
        if self.language is not None:
            wanted += [*self.language.artifacts, self.language.tokenizer]
        if self.detector is not None:
            wanted.append(self.detector.artifact)
        if self.golden is not None:
            wanted.append(self.golden.artifact)
        named = {name for name in wanted if name is not None}
        if missing := sorted(named - set(self.artifacts)):
            raise ValueError(f"no artifact named {', '.join(missing)}")
        if unread := sorted(set(self.artifacts) - named):
            raise ValueError(f"nothing reads the artifact {', '.join(unread)}")
        if unknown_names := sorted(set(self.varies) - set(self.artifacts)):
            raise ValueError(f"varies names no artifact: {', '.join(unknown_names)}")
        runs = [*self.vision, *(self.language.artifacts if self.language is not None else ())]
        if dead := [name for name in runs if self.artifacts[name].format in _DATA]:
            raise ValueError(f"no engine runs {', '.join(dead)}")
        if self.detector is not None:
            finder = self.detector.artifact
            if finder in runs or self.artifacts[finder].format != "onnx":
                raise ValueError(f"{finder} is no detector: it has another part, or is not ONNX")
        for artifact in self.artifacts.values():
            if artifact.thresholds is not None and set(artifact.thresholds) != set(self.thresholds):
                raise ValueError(f"{artifact.file} has thresholds of other AUs")
        files = [artifact.file for artifact in self.artifacts.values()]
        folded = {name.casefold() for name in (*files, MANIFEST, SIGNATURE)}  # as a Mac's disk does
        if len(folded) != len(files) + 2:
            raise ValueError("artifacts share a file")
        return self


def tree_sha256(hashes: dict[str, str]) -> str:
    """sha256 of a folder, from those of its files by their paths within it, written with /."""
    return hashlib.sha256(canonical(dict(hashes))).hexdigest()


def canonical(fields: dict[str, object]) -> bytes:
    """The one way to write a manifest's fields: JSON in UTF-8, keys sorted, a value a line after
    one space a level, a line end at the end."""
    text = json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def digest(fields: dict[str, object]) -> str:
    """sha256 of a manifest's fields without its own digest."""
    return hashlib.sha256(
        canonical({name: value for name, value in fields.items() if name != "digest"})
    ).hexdigest()
