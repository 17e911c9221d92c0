"""Analyzer: one frame through all of it. The only place that knows the order of the steps."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import IMAGE, LANDMARKS, TOKENS, VisionBackend
from feallm.runtime.backends.choose import Choice, choose, open_vision
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import BackendError, BundleError, InputError
from feallm.runtime.contract.frame import Crop, Face, Frame, Image
from feallm.runtime.contract.geometry import MEAN_POINTS_BOX
from feallm.runtime.contract.quality import Gate, Quality
from feallm.runtime.contract.reading import Explanation, FrameReport, Reading
from feallm.runtime.language import template
from feallm.runtime.language.explain import Speaker
from feallm.runtime.vision import align, decode, quality
from feallm.runtime.vision.detect import DetectorFile, FaceFinder, Search

_MOST_AT_ONCE = 16  # faces in one batch: memory stays flat on a picture of a crowd


class Analyzer:
    """Reads faces with a bundle: `Analyzer().read(image)`.

    detector: a file in YuNet's layout; without it the bundle's own. search_px: the longer side at
    which frames are searched, instead of the bundle's. detect=False: every picture is one face
    crop already. words=False: explanations come from the template. expression=False: action units
    alone, where naming an emotion is not allowed. gate: below what a reading is marked.
    vision_engine, language_engine: onnx, llama, executorch, coreml, or an artifact's name in the
    manifest; else the best of the bundle's that runs here. threads: of one inference; else the
    profile's. vision: a backend of one's own.
    """

    def __init__(
        self,
        bundle: Path | Bundle | None = None,
        *,
        detector: Path | None = None,
        search_px: int | None = None,
        detect: bool = True,
        words: bool = True,
        expression: bool = True,
        vision: VisionBackend | None = None,
        gate: Gate | None = None,
        vision_engine: str | None = None,
        language_engine: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        manifest = self.bundle.manifest
        self._geometry = manifest.geometry.crop()
        self.vision_choice: Choice | None = None
        self.manifest = manifest
        if vision is None:
            self.vision_choice = choice = choose(manifest.artifacts, manifest.vision, vision_engine)
            path = self.bundle.file(choice.artifact)
            vision = open_vision(path, choice.engine, manifest.profile, threads)
            if (own := manifest.artifacts[choice.artifact].thresholds) is not None:
                self.manifest = manifest.model_copy(update={"thresholds": own})
        self.vision = vision
        self._finder: FaceFinder | None = None
        if detect:
            self._finder = open_detector(self.bundle, detector, search_px)
        self._mean_points = MEAN_POINTS_BOX if detect else manifest.preprocessing.mean_points
        self._expression = expression
        self._gate = gate or Gate()
        self._occlusion = quality.occlusion_for(manifest.training.checkpoint_sha256)
        self.language: Speaker | None = None
        self.language_engine, self._threads = language_engine, threads
        self.words_missing = self._why_no_words(words)

    def _why_no_words(self, words: bool) -> str | None:
        if not words:
            return "the model's own words were not asked for"
        if not self._expression:
            return "expressions were not asked for, and the model's words name them"
        language = self.bundle.manifest.language
        if language is None:
            return "this bundle has no language model"
        try:
            choose(self.bundle.manifest.artifacts, language.artifacts, self.language_engine)
        except BackendError as error:
            if self.language_engine is not None:  # what was asked for by name is not replaced
                raise
            return error.message
        return None

    def find(self, frame: Frame) -> list[Face]:
        """Faces of a frame, largest first; the whole picture where nothing is to be found."""
        if self._finder is not None:
            return self._finder.find(frame)
        height, width = frame.pixels.shape[:2]
        return [Face((0.0, 0.0, float(width), float(height)), None, 1.0)]

    def crop(self, frame: Frame, face: Face) -> Crop:
        """The face as the network sees it."""
        points = face.points
        if points is None:
            points = align.points_in_box(face.box, self._mean_points)
        try:
            pixels, matrix = align.align(frame.pixels, points, self._geometry)
        except ValueError as error:
            place = ", ".join(f"{value:g}" for value in face.box)
            raise InputError(f"{frame.source}: no crop of the face at {place}: {error}") from error
        return Crop(pixels, matrix)

    def read(
        self,
        frame: Frame | Image,
        *,
        faces: Sequence[Face] | None = None,
        explain: bool | Collection[int] = False,
        crops: list[Crop] | None = None,
    ) -> FrameReport:
        """Everything read from a frame, or an RGB picture uint8 (H, W, 3).

        faces: where they are, if already known. explain: True for all, or the tracks to explain.
        crops: a list that gets each face as the network saw it.
        """
        frame = frame if isinstance(frame, Frame) else Frame(frame, "picture", still=True)
        _check_pixels(frame.pixels)
        timings = {"detect": 0.0, "crop": 0.0, "vision": 0.0, "words": 0.0}
        start = time.perf_counter()
        if faces is None:
            faces = self.find(frame)
            timings["detect"] = _since(start)
        readings: list[Reading] = []
        for k in range(0, len(faces), _MOST_AT_ONCE):
            some = faces[k : k + _MOST_AT_ONCE]
            readings += self._read_faces(frame, some, explain, timings, crops)
        return FrameReport(
            frame.source, frame.index, frame.time_s, tuple(readings), self.bundle.digest, timings
        )

    def _read_faces(
        self,
        frame: Frame,
        faces: Sequence[Face],
        explain: bool | Collection[int],
        timings: dict[str, float],
        seen: list[Crop] | None,
    ) -> list[Reading]:
        start = time.perf_counter()
        cut = [self.crop(frame, face) for face in faces]
        crops = np.stack([crop.pixels for crop in cut])
        timings["crop"] += _since(start)
        start = time.perf_counter()
        outputs = self.outputs(crops)
        self._look_again(frame, faces, cut, outputs)
        if seen is not None:
            seen += cut
        timings["vision"] += _since(start)
        readings = []
        for k, face in enumerate(faces):
            reading = decode.reading(
                outputs,
                k,
                face,
                self.manifest,
                matrix=cut[k].to_crop,
                expression=self._expression,
            )
            start = time.perf_counter()
            measured = self._quality(frame, face, cut[k], reading, outputs[TOKENS][k])
            reading = replace(reading, quality=measured)
            timings["crop"] += _since(start)
            if explain is True or (explain is not False and face.track in explain):
                start = time.perf_counter()
                explanation = self.explain(reading, outputs[TOKENS][k])
                reading = replace(reading, explanation=explanation)
                timings["words"] += _since(start)
            readings.append(reading)
        return readings

    def _quality(
        self, frame: Frame, face: Face, crop: Crop, reading: Reading, tokens: NDArray[np.float32]
    ) -> Quality:
        covered = None if self._occlusion is None else self._occlusion.share(tokens)
        return quality.measure(
            frame.pixels,
            face,
            crop,
            self._geometry,
            gate=self._gate,
            place=reading.place,
            covered=covered,
        )

    def _look_again(
        self,
        frame: Frame,
        faces: Sequence[Face],
        cut: list[Crop],
        outputs: dict[str, NDArray[np.float32]],
    ) -> None:
        """A second look at faces of which only a box was known, and at all of a photograph: cut at
        the points that the first look found, and the mean of both looks is what was read. In
        place; where the face is, is told by the second look alone. A frame of a video gets one."""
        if LANDMARKS not in outputs:
            return
        again: list[int] = []
        for k, face in enumerate(faces):
            if face.points is not None and not frame.still:
                continue
            points = decode.own_points(outputs, k, cut[k].to_crop)
            try:
                pixels, matrix = align.align(frame.pixels, points, self._geometry)
            except ValueError:  # no face's points: the first look stands
                continue
            cut[k] = Crop(pixels, matrix)
            again.append(k)
        if again:
            second = self.outputs(np.stack([cut[k].pixels for k in again]))
            for name, values in decode.both_looks(outputs, again, second).items():
                outputs[name][again] = values

    def outputs(self, crops: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Raw outputs of the vision artifact for crops (N, H, W, 3), checked."""
        outputs = self.vision.run({IMAGE: crops})
        decode.check(outputs, len(crops))
        return outputs

    def explain(self, reading: Reading, tokens: NDArray[np.float32]) -> Explanation:
        """Words for a reading: the model's own where they hold, else the template's; of a marked
        reading they begin with the mark."""
        if self.words_missing is None and self.language is None:
            try:
                self.language = Speaker(
                    self.bundle, engine=self.language_engine, threads=self._threads
                )
            except BackendError as error:
                self.words_missing = error.message
        if self.language is None:
            said = template.explain(reading, self.words_missing or "no language model")
        else:
            said = self.language.explain(tokens, reading)
        return template.with_care(said, reading)

    def running(self) -> dict[str, dict[str, str]]:
        """What reads, and what speaks: artifact, engine, provider that really runs it, and why it
        was taken. Words are named only once they were asked for."""
        found = {"vision": {"provider": self.vision.provider}}
        if (choice := self.vision_choice) is not None:
            found["vision"] |= {
                "artifact": choice.artifact, "engine": choice.engine, "why": choice.why
            }  # fmt: skip
        if self.language is not None:
            choice = self.language.choice
            found["language"] = {
                "provider": self.language.provider,
                "artifact": choice.artifact,
                "engine": choice.engine,
                "why": choice.why,
            }
        return found

    def close(self) -> None:
        """Give the libraries' memory back."""
        self.vision.close()
        if self.language is not None:
            self.language.close()
            self.language = None

    def __enter__(self) -> Analyzer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_detector(
    bundle: Bundle, file: Path | None = None, search_px: int | None = None
) -> DetectorFile:
    """The bundle's detector, or the first shipped bundle's where it has none; or `file`, asked in
    the same way. Raises InputError for a file that is none, BundleError for a broken bundle."""
    owner = bundle if bundle.manifest.detector is not None else open_bundle()
    stated = owner.manifest.detector
    search = Search()
    if stated is not None:
        search = Search(stated.score, stated.overlap, stated.still_px, stated.video_px)
    if search_px is not None:
        search = replace(search, still_px=search_px, video_px=search_px)
    if file is not None:
        return DetectorFile(Path(file), search)
    if stated is None:
        raise BundleError(f"{owner.root}: no face detector in it", hint="name one with --detector")
    return DetectorFile(owner.file(stated.artifact), search)


def _check_pixels(pixels: NDArray[np.uint8]) -> None:
    if not isinstance(pixels, np.ndarray):
        raise InputError(f"expected an RGB picture uint8 (H, W, 3), found {type(pixels).__name__}")
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise InputError(
            f"expected an RGB picture uint8 (H, W, 3), found {pixels.dtype} {pixels.shape}"
        )


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
