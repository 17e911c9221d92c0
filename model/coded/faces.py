"""Which faces are coded by eye: drawn by seed, spread over the expressions, named so that the same
picture is found again in the shared data."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive, ferplus, pseudo
from feallm.runtime.contract.errors import InputError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.vision.align import Image

Part = Literal["test", "train", "neutral", "more", "learn"]
PARTS: tuple[Part, ...] = ("test", "train", "neutral", "more", "learn")

UNSEEN: tuple[Part, ...] = ("train", "test", "more")
"""Lists whose faces no training may see, and which training pictures hold; thresholds are fitted on
the first and the last."""

SEEDS = {"test": 1113, "train": 1114, "neutral": 1115, "more": 1116}
TEST_QUOTA = {"fer": 50, "lfw": 60, "london": 30, "clips": 10}
TRAIN_QUOTA = {"fer": 60, "lfw": 60, "london": 30}
NEUTRAL_QUOTA = {"london": 50, "lfw": 50}  # faces at rest, of people that no training sees
MORE_QUOTA = {"fer": 120, "lfw": 120}  # of the faces that trainings hold out
QUOTAS = {"test": TEST_QUOTA, "train": TRAIN_QUOTA, "neutral": NEUTRAL_QUOTA, "more": MORE_QUOTA}
_TRAINING = ("train", "more")
CLIPS = {"expressions": 4, "face_moving": 2, "people3": 2, "small_face": 2}
COLUMNS = ("id", "source", "name", "expression", *(f"{axis}{k}" for k in range(5) for axis in "xy"))
FOLDER = Path(__file__).parent
_SAME_PX = 0.02  # between a face's points and what its list rounds them to


@dataclass(frozen=True, slots=True)
class CodedFace:
    """One face of a list."""

    id: str  # "T001": its number in the list
    source: str  # fer, lfw, london, cc0 or clips
    name: str  # row of fer2013.csv; file:row of LFW; file of London; row of CC0; clip:frame
    expression: str  # what it was spread by: a crowd's class, a word of the source, or "none"
    points5: NDArray[np.float64]  # (5, 2) pixels of the picture, YuNet's order


class Shared:
    """Pictures of the shared data by `source` and `name`; archives are read once."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._archives: dict[Path, tuple[list[bytes], dict[str, NDArray[np.generic]]]] = {}

    def archive(self, path: Path) -> tuple[list[bytes], dict[str, NDArray[np.generic]]]:
        """Encoded pictures and arrays of an archive."""
        if path not in self._archives:
            arrays = archive.read(path, "images", "offsets")
            self._archives[path] = (archive.encoded(path, arrays), arrays)
        return self._archives[path]

    def picture(self, source: str, name: str) -> Image:
        """The picture (H, W, 3) RGB; `InputError` where it is not in the folder."""
        if source == "london":
            found = cv2.imread(str(self.data / "london" / f"{name}.webp"), cv2.IMREAD_COLOR)
        elif source == "clips":
            found = self._frame(name)
        else:
            path, row = self._place(source, name)
            images, _ = self.archive(path)
            found = archive.picture(path, row, images[row], cv2.IMREAD_COLOR)
        if found is None:
            raise InputError(f"{self.data}: no picture {name} of {source}")
        return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), np.uint8)

    def encoded(self, source: str, name: str) -> bytes:
        """The picture's file as it lies in the folder; a clip's frame as PNG, which loses nothing.

        `InputError` where it is not in the folder."""
        if source == "clips":
            found = self._frame(name)
            if found is None:
                raise InputError(f"{self.data}: no picture {name} of {source}")
            return cv2.imencode(".png", found)[1].tobytes()
        if source == "london":
            path = self.data / "london" / f"{name}.webp"
            try:
                return path.read_bytes()
            except OSError as error:
                raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        path, row = self._place(source, name)
        images = self.archive(path)[0]
        if row >= len(images):
            raise InputError(f"{path}: no picture {row}")
        return images[row]

    def _frame(self, name: str) -> cv2.typing.MatLike | None:
        """Frame of a clip (H, W, 3) BGR, or none."""
        clip, frame = name.split(":")
        capture = cv2.VideoCapture(str(self.data / "clips" / f"{clip}.mp4"))
        found = None
        for _ in range(int(frame) + 1):  # seeking is not exact
            there, found = capture.read()
            found = found if there else None
        capture.release()
        return found

    def _place(self, source: str, name: str) -> tuple[Path, int]:
        if source == "cc0":
            return self.data / "cc0" / "portraits.npz", int(name)
        if source == "lfw":
            file, row = name.split(":")
            return self.data / "lfw" / f"{file}.npz", int(row)
        split, row = name.split(":")
        path = self.data / "fer" / f"{split}.npz"
        rows = np.flatnonzero(self.archive(path)[1]["row"] == int(row))
        if not len(rows):
            raise InputError(f"{path}: no row {row}")
        return path, int(rows[0])


def listed(part: Part) -> list[CodedFace]:
    """The committed list."""
    return read(FOLDER / f"{part}.csv")


def read(path: Path) -> list[CodedFace]:
    """A list as `write` leaves it."""
    with path.open(newline="") as text:
        return [
            CodedFace(
                line["id"],
                line["source"],
                line["name"],
                line["expression"],
                np.array([float(line[c]) for c in COLUMNS[4:]]).reshape(5, 2),
            )
            for line in csv.DictReader(text)
        ]


def write(faces: Sequence[CodedFace], path: Path) -> None:
    """The list as CSV."""
    with path.open("w", newline="") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for face in faces:
            points = [f"{value:.2f}" for value in face.points5.ravel()]
            writer.writerow([face.id, face.source, face.name, face.expression, *points])


def draw(
    data: Path, part: Part, among_points: NDArray[np.float32] | None = None
) -> list[CodedFace]:
    """Draw a part's faces. A face without five points is passed over for the next of its kind,
    and so is one whose points are not `among_points` (N, 5, 2), where those are given."""
    shared = Shared(data)
    points = Points(shared)

    def find(source: str, name: str) -> NDArray[np.float64] | None:
        place = points.find(source, name)
        if place is None or among_points is None:
            return place
        near = np.abs(among_points - place).max((1, 2)) < _SAME_PX
        return place if near.any() else None

    rng = np.random.default_rng(SEEDS[part])
    quota = QUOTAS[part]
    named: list[tuple[str, str, str, NDArray[np.float64]]] = []
    for source, count in quota.items():
        strata = {
            "fer": lambda: _fer(shared, part),
            "lfw": lambda: _lfw(shared, part),
            "london": lambda: _london(data, part),
            "clips": lambda: _clips(shared),
        }[source]()
        if part == "neutral":
            strata = {"neutral": strata["neutral"]}
        named += [
            (source, name, word, place)
            for name, word, place in _spread(strata, count, rng, partial(find, source))
        ]
    order = rng.permutation(len(named))  # readers must not see blocks of one source
    letter = {"test": "T", "train": "D", "neutral": "N", "more": "M"}[part]  # no id in two lists
    return [CodedFace(f"{letter}{k + 1:03d}", *named[i]) for k, i in enumerate(order)]


Stratum = dict[str, list[list[str]]]  # expression -> persons or groups -> names


def _spread(
    strata: Stratum,
    count: int,
    rng: np.random.Generator,
    locate: Callable[[str], NDArray[np.float64] | None],
) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Round after round one face of each expression, each person once, until `count` are found."""
    queues = {
        word: [group[rng.integers(len(group))] for group in _shuffled(groups, rng)]
        for word, groups in strata.items()
    }
    found = 0
    while found < count and any(queues.values()):
        for word, queue in queues.items():
            while queue and found < count:
                name = queue.pop()
                place = locate(name)
                if place is not None:
                    found += 1
                    yield name, word, place
                    break


def _shuffled(groups: list[list[str]], rng: np.random.Generator) -> list[list[str]]:
    return [groups[i] for i in rng.permutation(len(groups))]


def _fer(shared: Shared, part: Part) -> Stratum:
    path = shared.data / "fer" / ("valid.npz" if part == "test" else "train.npz")
    split = ferplus.read(path)
    train = ferplus.read(shared.data / "fer" / "train.npz")
    usable = split.usable.copy()
    if part == "test":
        usable &= ~np.isin(split.dup_group, train.dup_group)
    classes = ferplus.classes(split.votes)
    rows = shared.archive(path)[1]["row"]
    strata: Stratum = {}
    for k, word in enumerate(EXPRESSIONS):
        groups: dict[int, list[str]] = {}
        for i in np.flatnonzero(usable & (classes == k)):
            groups.setdefault(int(split.dup_group[i]), []).append(f"{path.stem}:{rows[i]}")
        strata[word] = list(groups.values())
    return strata


def _lfw(shared: Shared, part: Part) -> Stratum:
    people: dict[str, tuple[str, list[str]]] = {}
    for file in ("lfw", "lfw_more"):
        _, arrays = shared.archive(shared.data / "lfw" / f"{file}.npz")
        for i, (name, test, k) in enumerate(
            zip(arrays["names"], arrays["test"], arrays["expression"], strict=True)
        ):
            if bool(test) == (part not in _TRAINING) and int(k) >= 0:
                person = str(name).rsplit("_", 1)[0]
                people.setdefault(person, (EXPRESSIONS[int(k)], []))[1].append(f"{file}:{i}")
    strata: Stratum = {}
    for word, names in people.values():
        strata.setdefault(word, []).append(names[:1])
    return {word: strata[word] for word in EXPRESSIONS if word in strata}


def _london(data: Path, part: Part) -> Stratum:
    remainder = 1 if part == "train" else 0
    ids = sorted({p.name[:3] for p in (data / "london").glob("*_neutral.webp")})
    ids = [i for i in ids if int(i) % 2 == remainder]
    if part == "neutral":
        return {"neutral": [[f"{i}_neutral"] for i in ids]}
    return {  # a person is neutral or smiling, by turns
        "neutral": [[f"{i}_neutral"] for i in ids[0::2]],
        "happiness": [[f"{i}_smiling"] for i in ids[1::2]],
    }


def _clips(shared: Shared) -> Stratum:
    strata: Stratum = {}
    for clip, count in CLIPS.items():
        capture = cv2.VideoCapture(str(shared.data / "clips" / f"{clip}.mp4"))
        frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        capture.release()
        edges = np.linspace(0, frames, count + 1).astype(int)  # one out of each stretch of time
        for start, end in zip(edges[:-1], edges[1:], strict=True):
            strata[f"none {clip}:{start}"] = [[f"{clip}:{k}" for k in range(start, end)]]
    return strata


class Points:
    """Five points of a picture: MediaPipe's where FER has them, else YuNet's largest face."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        teacher = shared.data / "detector" / "face_detection_yunet_2023mar.onnx"
        if not teacher.is_file():
            raise InputError(f"{teacher}: no such detector file")
        self.detector = cv2.FaceDetectorYN.create(str(teacher), "", (320, 320), 0.6)

    @cached_property
    def fer(self) -> dict[str, NDArray[np.float64]]:
        """Points by name; read when first asked for, since other sources do without FER."""
        points5: dict[str, NDArray[np.float64]] = {}
        for split in ("train", "valid"):
            marks = pseudo.read(self.shared.data / "fer" / f"mediapipe_{split}.npz")
            rows = self.shared.archive(self.shared.data / "fer" / f"{split}.npz")[1]["row"]
            points5 |= {
                f"{split}:{row}": points.astype(np.float64)
                for row, points, found in zip(rows, marks.points5, marks.found, strict=True)
                if found
            }
        return points5

    def find(self, source: str, name: str) -> NDArray[np.float64] | None:
        """Points (5, 2), or none."""
        if source == "fer":
            return self.fer.get(name)
        picture = cv2.cvtColor(self.shared.picture(source, name), cv2.COLOR_RGB2BGR)
        self.detector.setInputSize((picture.shape[1], picture.shape[0]))
        found = self.detector.detect(picture)[1]
        if found is None:
            return None
        if source == "lfw":  # its person stands in the middle
            middle = np.abs(found[:, :2] + found[:, 2:4] / 2 - 125).sum(1)
            face = found[middle.argmin()]
        else:
            face = found[(found[:, 2] * found[:, 3]).argmax()]
        return np.asarray(face[4:14], np.float64).reshape(5, 2)


def among(points5: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which faces (N, 5, 2) stand in a list of `UNSEEN`: they have the very points of the list,
    which holds two decimals."""
    found = np.zeros(len(points5), bool)
    for face in (face for part in UNSEEN for face in listed(part)):
        found |= np.abs(points5[:, :3] - face.points5[:3]).max((1, 2)) < _SAME_PX
    return found
