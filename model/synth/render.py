"""One finished face: person and shot to picture, labels and what is known of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import camera, doubt, furrows, grounds, lights, occlude, wear
from feallm.model.synth.action_units import LEFT, RIGHT, shape_weights, share
from feallm.model.synth.draw import (
    HEIGHT,
    WIDTH,
    Canvas,
    Eyes,
    Hair,
    Light,
    Photo,
    Pose,
    around,
    eyeball,
)
from feallm.model.synth.head import SHAPES, Head
from feallm.model.synth.labels import Reader, gap_cm, opening
from feallm.model.synth.mesh import Mesh, openness
from feallm.model.synth.sample import Person, Shot
from feallm.model.synth.skin import Guide, paint
from feallm.runtime.contract.aus import AU_INDEX

if TYPE_CHECKING:
    from feallm.model.synth.photo import Fitted

Floats = NDArray[np.float32]

EYE_CANVAS_PX = 54.5  # on the canvas, from the front
_CLOSED_CM = 0.03  # gap of the inner lips' landmarks when the lips meet
_SLIT = 0.36  # of the opening at rest that tightened lids leave; beyond it a coder sees AU43
_PHOTO_RELIEF = 0.4


@dataclass(frozen=True, slots=True)
class Rendered:
    """A finished picture and its labels."""

    picture: NDArray[np.uint8]  # (H, W, 3) RGB
    au_sides: NDArray[np.float32]  # (20, 2) 0–5, left and right; NaN = hidden or in doubt
    points68: NDArray[np.float32]  # (68, 2) pixels
    pose_deg: tuple[float, float, float]
    gaze_deg: tuple[float, float]
    occluded: float  # share of the face's points that are covered
    face_px: float  # width of the face
    encoded: bytes  # the picture as JPEG


@dataclass(frozen=True, slots=True)
class CutOut:
    """A head without a background."""

    picture: NDArray[np.uint8]  # (H, W, 4) RGB and cover
    points68: NDArray[np.float32]  # (68, 2) pixels
    pose_deg: tuple[float, float, float]
    occluded: float  # share of the face's points that are covered


@dataclass(frozen=True, slots=True)
class Prepared:
    """A person made ready to be drawn many times."""

    person: Person
    rest: Floats  # (V, 3)
    hair: Hair | None
    eyes: tuple[Floats, Floats]  # centres of the left and right eyeball


class Studio:
    """Draws people. Holds one OpenGL context: one a process."""

    def __init__(self, head: Head) -> None:
        """Raises `BackendError` where there is no OpenGL without a screen."""
        self.reader = Reader.of(head)
        self.mesh = Mesh.of(head, self.reader.vertices)
        self.guide = Guide.of(head)
        self.canvas = Canvas(self.mesh, self.guide)
        mean = self.mesh.mean.reshape(-1, 3)[: self.mesh.skin_vertices]
        self._mean_skin = mean
        normals = self.mesh.normals(self.mesh.mean.reshape(-1, 3))
        self._openness = openness(mean, normals)
        self._lip_lift = self._alone("mouthClose")
        self._blinks = (self._alone("eyeBlink_L"), self._alone("eyeBlink_R"))

    def __enter__(self) -> Studio:
        return self

    def __exit__(self, *error: object) -> None:
        self.canvas.close()

    def retake(self, fitted: Fitted, someone: Person, shot: Shot) -> Rendered:
        """The picture of a photo whose face moves; `someone` lends eyes, teeth and furrows.

        Hair, glasses, pose, background and light are the photo's own.
        """
        rng = np.random.default_rng(shot.seed)
        moved, _ = self._moved(fitted.rest, shot)
        points = fitted.rest + moved
        labels = self._labels(fitted.rest, points, shot)
        # what the photo's own light does to a furrow is not known: shallow ones look truest
        still = replace(
            someone, at_rest=np.zeros(12, np.float32), relief=someone.relief * _PHOTO_RELIEF
        )
        ready = Prepared(still, fitted.rest, None, self._eyes(fitted.rest))
        lit = lights.as_in(fitted.ground, lights.of(shot, rng))
        self.canvas.set_photo(fitted.photo)
        picture = self._draw(ready, points, labels, shot, fitted.pose, lit, fitted.photo)
        flat = fitted.pose.pixels(points[self.mesh.landmarks].astype(np.float64))
        scene = grounds.before(picture, fitted.ground)
        if np.ptp(fitted.ground.astype(np.int16), axis=2).max() < 24:  # a gray photo stays gray
            gray = np.asarray(cv2.cvtColor(scene, cv2.COLOR_RGB2GRAY), np.uint8)
            scene = np.repeat(gray[..., None], 3, 2)
        done = self._finish(scene, labels, shot, flat, rng, None, still.paint.tone)
        return replace(done, gaze_deg=(np.nan, np.nan))  # nobody knows where the photo looks

    def _alone(self, name: str) -> Floats:
        weights = np.zeros(len(SHAPES))
        weights[SHAPES.index(name)] = 1
        return self.mesh.movement(weights)

    def prepare(self, person: Person) -> Prepared:
        """Shape and paint of a person; what is drawn next wears this paint."""
        self.canvas.set_paint(paint(self.guide, person.paint))
        rest = self._lips_closed(self.mesh.person(person.weights))
        return Prepared(person, rest, wear.shell(self._mean_skin, person.hair), self._eyes(rest))

    def _eyes(self, rest: Floats) -> tuple[Floats, Floats]:
        left, right = self.mesh.eye_rows
        return eyeball(rest[left])[0], eyeball(rest[right])[0]

    def _labels(
        self, rest: Floats, points: Floats, shot: Shot, gaze: Floats | None = None
    ) -> NDArray[np.float64]:
        """Intensities (20, 2) read off the mesh; AU23, which cannot be read, as asked for."""
        probes = self.mesh.probes
        labels = self.reader.read(
            rest[probes].astype(np.float64),
            points[probes].astype(np.float64),
            None if gaze is None else gaze[probes].astype(np.float64),
        )
        labels[AU_INDEX["AU23"]] = shot.au_sides[AU_INDEX["AU23"]]
        return labels

    def take(
        self,
        ready: Prepared,
        shot: Shot,
        backgrounds: list[NDArray[np.uint8]],
        *,
        develop: bool = True,
    ) -> Rendered:
        """The picture of one shot of the person prepared last.

        `backgrounds` (H, W, 3) RGB, may be none; `develop=False` leaves the camera out: no blur,
        no grain, and nothing encoded.
        """
        rng = np.random.default_rng(shot.seed)
        person = ready.person
        moved, gaze_part = self._moved(ready.rest, shot)
        points = ready.rest + moved
        labels = self._labels(ready.rest, points, shot, gaze_part)
        pose = self._pose(ready.rest, shot)
        light = lights.of(shot, rng)
        picture = self._draw(ready, points, labels, shot, pose, light)
        marks = points[self.mesh.landmarks].astype(np.float64)
        flat = pose.pixels(marks)
        shade = float(np.clip((light.key + light.sky).mean(), 0.25, 1.3)) ** 0.5
        scene = grounds.behind(backgrounds, shot, rng)
        wear.behind(scene, person.hair, pose, 0.75 * shade)
        scene = grounds.before(picture, scene)
        lenses = None
        if person.glasses is not None:
            lenses = wear.glasses(scene, person.glasses, ready.eyes, marks, pose, shade)
        return self._finish(
            scene, labels, shot, flat, rng, lenses, person.paint.tone, shade, develop=develop
        )

    def cut_out(self, ready: Prepared, shot: Shot, eye_px: float) -> CutOut:
        """The head of the person prepared last, to be laid into other pictures: whole where
        `eye_px`, the distance of the eyes, is below 36."""
        person = ready.person
        moved, gaze_part = self._moved(ready.rest, shot)
        points = ready.rest + moved
        labels = self._labels(ready.rest, points, shot, gaze_part)
        pose = self._pose(ready.rest, shot, eye_px)
        light = lights.of(shot, np.random.default_rng(shot.seed))
        drawn = self._draw(ready, points, labels, shot, pose, light)
        marks = points[self.mesh.landmarks].astype(np.float64)
        flat = pose.pixels(marks)
        shade = float(np.clip((light.key + light.sky).mean(), 0.25, 1.3)) ** 0.5
        # before black and before white: what differs shines through
        over, mask = [], np.zeros((HEIGHT, WIDTH), np.float32)
        for level in (0, 255):
            scene = np.full((HEIGHT, WIDTH, 3), level, np.uint8)
            wear.behind(scene, person.hair, pose, 0.75 * shade)
            scene = grounds.before(drawn, scene)
            if person.glasses is not None:
                wear.glasses(scene, person.glasses, ready.eyes, marks, pose, shade)
            if shot.occluder != "none":
                rng, tone = np.random.default_rng(shot.seed + 1), person.paint.tone
                mask = occlude.occlude(scene, shot.occluder, flat, rng, tone, shade)
            over.append(scene.astype(np.float32))
        cover = np.clip(1 - (over[1] - over[0]).mean(2) / 255, 0, 1)
        colour = np.clip(over[0] / np.maximum(cover, 1 / 255)[..., None], 0, 255)
        return CutOut(
            np.dstack([colour, cover * 255]).round().astype(np.uint8),
            flat.astype(np.float32),
            pose.degrees,
            float((doubt.covered(mask, flat)[17:] > 0.5).mean()),
        )

    def _finish(
        self,
        scene: NDArray[np.uint8],
        labels: NDArray[np.float64],
        shot: Shot,
        flat: NDArray[np.float64],
        rng: np.random.Generator,
        lenses: Floats | None,
        skin_tone: float,
        shade: float = 0.8,
        *,
        develop: bool = True,
    ) -> Rendered:
        """Occluder, size and camera; labels without what is hidden."""
        hidden = np.zeros((HEIGHT, WIDTH), np.float32) if lenses is None else lenses
        if shot.occluder != "none":
            mask = occlude.occlude(scene, shot.occluder, flat, rng, skin_tone, shade)
            hidden = np.maximum(hidden, mask)
        covered = doubt.covered(hidden, flat)
        known = doubt.unknown(labels, covered, shot)
        scale = shot.eye_px / EYE_CANVAS_PX
        size = (round(WIDTH * scale), round(HEIGHT * scale))
        small = np.asarray(cv2.resize(scene, size, interpolation=cv2.INTER_AREA), np.uint8)
        if develop:
            small = camera.develop(small, rng)
        factor = np.array(size) / np.array([WIDTH, HEIGHT])
        at = (flat + 0.5) * factor - 0.5
        return Rendered(
            small,
            known.astype(np.float32),
            at.astype(np.float32),
            shot.pose_deg,
            shot.gaze_deg,
            float((covered[17:] > 0.5).mean()),
            float(np.ptp(at[:17, 0])),
            camera.encode(small, rng) if develop else b"",
        )

    def _lips_closed(self, rest: Floats) -> Floats:
        """Identity modes part some people's lips and press others': at rest they just meet."""
        gap = gap_cm(rest[self.mesh.probes].astype(np.float64))
        lift = self._lip_lift
        per_unit = float(lift[self.mesh.landmarks[66], 1])
        return np.asarray(rest + np.float32((gap - _CLOSED_CM) / per_unit) * lift, np.float32)

    def _moved(self, rest: Floats, shot: Shot) -> tuple[Floats, Floats]:
        """Displacement (V, 3) of the whole, and of the part that lids make following the gaze."""
        weights = shape_weights(shot.au_sides)
        index = {name: k for k, name in enumerate(SHAPES)}
        for name, value in shot.extras.items():
            if name == "mouthClose":
                weights[index[name]] = value * weights[index["jawOpen"]]
            elif name.startswith("eye"):  # the small openings of a face at rest give way
                weights[index[name]] = max(weights[index[name]], value)
            else:
                weights[index[name]] += value
        gaze = np.zeros(len(SHAPES))
        up, left = shot.gaze_deg
        shut = share(shot.au_sides)[AU_INDEX["AU43"]]
        for side, sign, letter in ((LEFT, 1, "L"), (RIGHT, -1, "R")):
            free = 1 - shut[side]
            gaze[index[f"eyeLookUp_{letter}"]] = np.clip(up / 22, 0, 1) * free
            gaze[index[f"eyeLookDown_{letter}"]] = np.clip(-up / 30, 0, 1) * free
            gaze[index[f"eyeLookOut_{letter}"]] = np.clip(sign * left / 30, 0, 1) * free
            gaze[index[f"eyeLookIn_{letter}"]] = np.clip(-sign * left / 30, 0, 1) * free
        by_gaze = self.mesh.movement(gaze)
        moved = self.mesh.movement(weights) + by_gaze
        for side in (LEFT, RIGHT):
            moved += self._lids(rest, moved, self._blinks[side], side, float(shut[side]))
        return moved, by_gaze

    def _lids(self, rest: Floats, moved: Floats, blink: Floats, side: int, shut: float) -> Floats:
        """What the lids still lack. People's eyes are not equally wide, the shapes are: closed
        lids must just meet, and lids that are only tightened must leave a slit."""
        marks = self.mesh.probes
        at_rest = opening(rest[marks].astype(np.float64), side)
        now = opening((rest + moved)[marks].astype(np.float64), side)
        wanted = at_rest * (1 - shut) if shut > 0 else max(now, _SLIT * at_rest)
        closes = -(opening((rest + moved + blink)[marks].astype(np.float64), side) - now)
        lacking = (now - wanted) / closes
        return np.asarray(blink * np.float32(lacking), np.float32)

    def _pose(self, rest: Floats, shot: Shot, eye_px: float = EYE_CANVAS_PX) -> Pose:
        pitch, yaw, roll = np.deg2rad(shot.pose_deg)
        turn = around(2, roll) @ around(0, -pitch) @ around(1, yaw)
        marks = rest[self.mesh.landmarks]
        centre = marks[[27, 30, 33, 8, 36, 45]].mean(0) + np.array([0, 0.4, -4.0])
        eyes = np.linalg.norm(marks[36:42].mean(0) - marks[42:48].mean(0))
        near = shot.distance - 4.0  # the face is nearer than the middle of the head
        focal = eye_px / eyes * near
        return Pose(turn.astype(np.float32), centre, shot.distance, float(focal), shot.offset)

    def _draw(
        self,
        ready: Prepared,
        points: Floats,
        labels: NDArray[np.float64],
        shot: Shot,
        pose: Pose,
        light: Light,
        photo: Photo | None = None,
    ) -> NDArray[np.uint8]:
        person = ready.person
        normals = self.mesh.normals(points)
        hollow = self.mesh.hollowness(points, normals)
        up, left = np.deg2rad(shot.gaze_deg)
        gaze = around(1, left) @ around(0, -up)
        probes = points[self.mesh.probes].astype(np.float64)
        return self.canvas.draw(
            points,
            normals,
            hollow,
            self._openness,
            pose,
            light,
            depths=furrows.depths(labels, person.at_rest, person.paint.age),
            relief=person.relief,
            gloss=person.gloss,
            variant=person.variant,
            eyes=Eyes(
                person.iris_tone,
                person.white_tone,
                0.14 + 0.1 * (shot.contrast < 0.6),
                person.iris,
            ),
            gaze=(gaze.astype(np.float32), gaze.astype(np.float32)),
            eye_frames=ready.eyes,
            teeth_tone=person.teeth_tone,
            mouth_open=gap_cm(probes) > 0.03,
            hair=ready.hair,
            photo=photo,
            wide_eyes=bool(labels[AU_INDEX["AU5"]].max() > 1.2),
        )
