"""One finished face: person and shot to picture, labels and what is known of both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import camera, furrows, occlude, wear
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
    eyeball,
)
from feallm.model.synth.head import SHAPES, Head
from feallm.model.synth.labels import Reader, gap_cm, opening
from feallm.model.synth.mesh import Mesh
from feallm.model.synth.sample import LIGHTS, Person, Shot
from feallm.model.synth.skin import Guide, paint
from feallm.runtime.contract.aus import AU_INDEX

if TYPE_CHECKING:
    from feallm.model.synth.photo import Fitted

Floats = NDArray[np.float32]

EYE_CANVAS_PX = 54.5  # on the canvas, from the front
_CLOSED_CM = 0.03  # gap of the inner lips' landmarks when the lips meet
_SLIT = 0.36  # of the opening at rest that tightened lids leave; beyond it a coder sees AU43
_PHOTO_RELIEF = 0.4
_HIDDEN = 0.55  # share of an AU's evidence that may be covered before its label is unknown

# Landmarks (iBUG) near which an AU is seen; a sided AU is judged with both sides.
_EVIDENCE: dict[str, tuple[int, ...]] = {
    "AU1": (20, 21, 22, 23),
    "AU2": (17, 18, 19, 24, 25, 26),
    "AU4": (20, 21, 22, 23, 27),
    "AU5": (37, 38, 43, 44),
    "AU6": (36, 40, 41, 45, 46, 47),
    "AU7": (40, 41, 46, 47),
    "AU9": (27, 28, 29, 31, 35),
    "AU10": (31, 35, 50, 51, 52),
    "AU12": (48, 54),
    "AU14": (48, 54),
    "AU15": (48, 54, 59, 55),
    "AU17": (57, 8, 7, 9),
    "AU18": (48, 51, 54, 57),
    "AU20": (48, 54),
    "AU23": (48, 51, 54, 57),
    "AU24": (51, 57, 62, 66),
    "AU25": (61, 62, 63, 65, 66, 67),
    "AU26": (57, 8, 62, 66),
    "AU28": (51, 57, 62, 66),
    "AU43": (36, 37, 38, 39, 42, 43, 44, 45),
}


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
        self._openness = _openness(mean, normals)
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
        light = _as_in(fitted.ground, lighting(shot, rng))
        self.canvas.set_photo(fitted.photo)
        picture = self._draw(ready, points, labels, shot, fitted.pose, light, fitted.photo)
        flat = fitted.pose.pixels(points[self.mesh.landmarks].astype(np.float64))
        scene = _before(picture, fitted.ground)
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
        light = lighting(shot, rng)
        picture = self._draw(ready, points, labels, shot, pose, light)
        marks = points[self.mesh.landmarks].astype(np.float64)
        flat = pose.pixels(marks)
        shade = float(np.clip((light.key + light.sky).mean(), 0.25, 1.3)) ** 0.5
        scene = _behind(backgrounds, shot, rng)
        wear.behind(scene, person.hair, pose, 0.75 * shade)
        scene = _before(picture, scene)
        lenses = None
        if person.glasses is not None:
            lenses = wear.glasses(scene, person.glasses, ready.eyes, marks, pose, shade)
        return self._finish(
            scene, labels, shot, flat, rng, lenses, person.paint.tone, shade, develop=develop
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
        covered = _covered(hidden, flat)
        known = _unknown(labels, covered, shot)
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

    def _pose(self, rest: Floats, shot: Shot) -> Pose:
        pitch, yaw, roll = np.deg2rad(shot.pose_deg)
        turn = _around(2, roll) @ _around(0, -pitch) @ _around(1, yaw)
        marks = rest[self.mesh.landmarks]
        centre = marks[[27, 30, 33, 8, 36, 45]].mean(0) + np.array([0, 0.4, -4.0])
        eyes = np.linalg.norm(marks[36:42].mean(0) - marks[42:48].mean(0))
        near = shot.distance - 4.0  # the face is nearer than the middle of the head
        focal = EYE_CANVAS_PX / eyes * near
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
        gaze = _around(1, left) @ _around(0, -up)
        probes = points[self.mesh.probes].astype(np.float64)
        return self.canvas.draw(
            points,
            normals,
            hollow,
            self._openness,
            pose,
            light,
            depths=furrow_depths(labels, person.at_rest, person.paint.age),
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


def _around(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation (3, 3) about the x, y or z axis by the right hand, radians."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    m = np.eye(3)
    m[a, a], m[a, b], m[b, a], m[b, b] = c, -s, s, c
    return m


def _openness(points: Floats, normals: Floats) -> Floats:
    """How much of the surroundings each vertex sees (N,), 0–1: nostrils, sockets and ears less.

    From heights around it: the mean of how far neighbours within 1.5 cm stand above its plane.
    """
    n = len(points)
    open_ = np.ones(n, np.float32)
    order = np.argsort(points[:, 1], kind="stable")
    sorted_y = points[order, 1]
    for i in range(n):
        a, b = np.searchsorted(sorted_y, (points[i, 1] - 1.5, points[i, 1] + 1.5))
        near = points[order[a:b]] - points[i]
        distance = np.sqrt((near**2).sum(1))
        close = near[(distance < 1.5) & (distance > 0.15)]
        if len(close):
            height = (close @ normals[i]) / np.sqrt((close**2).sum(1))
            open_[i] = 1 - 0.8 * float(np.clip(height, 0, 1).mean()) * 2
    return np.asarray(open_.clip(0.2, 1.0), np.float32)


def furrow_depths(
    labels: NDArray[np.float64], at_rest: NDArray[np.float32], age: float
) -> NDArray[np.float32]:
    """Depth 0–1 of the twelve furrow maps, left and right (2, 12), for intensities (20, 2) 0–5.

    `at_rest` (12,) depths that stay; `age` 0 young … 1 old.
    """
    moved = np.nan_to_num(labels) / 5
    depths = np.zeros((2, 12), np.float32)
    for k, makers in enumerate(furrows.AU_OF_MAP):
        for key, weight in makers.items():
            depths[:, k] += weight * moved[AU_INDEX[key]] ** 0.8
    strength = 0.75 + 0.25 * age
    return np.asarray((at_rest + (1 - at_rest) * depths.clip(0, 1) * strength), np.float32)


def lighting(shot: Shot, rng: np.random.Generator) -> Light:
    """The light of a shot, in camera space; `rng` gives what the shot does not say."""
    kind = LIGHTS[shot.light]
    side = 1.0 if rng.random() < 0.5 else -1.0
    way = {
        "even": (0.2 * side, 0.4, 1.0),
        "window": (0.8 * side, 0.35, 0.7),
        "overhead": (0.1 * side, 1.0, 0.45),
        "side": (1.0 * side, 0.15, 0.2),
        "flash": (0.05 * side, 0.12, 1.0),
        "below": (0.15 * side, -0.7, 0.7),
        "backlit": (0.7 * side, 0.5, -0.6),
    }[kind]
    strength = {"even": 0.55, "flash": 1.0, "side": 0.95, "backlit": 1.1}.get(kind, 0.85)
    around = {"even": 0.5, "flash": 0.14, "side": 0.24, "backlit": 0.65}.get(kind, 0.32)
    a, b = np.deg2rad(shot.light_turn)
    direction = _around(1, a) @ _around(0, b) @ np.array(way)
    fill_way = np.array([-np.sign(direction[0]) * 0.8, rng.uniform(-0.2, 0.4), 0.8])
    warm = np.array([1 + shot.warmth, 1.0, 1 - shot.warmth])
    cool = np.array([1 - 0.5 * shot.warmth, 1.0, 1 + 0.5 * shot.warmth])
    e = shot.exposure
    key = strength * (0.45 + 0.6 * shot.contrast) * warm * e
    ambient = around * (1.35 - 0.8 * shot.contrast) * cool * e
    return Light(
        (direction / np.linalg.norm(direction)).astype(np.float32),
        key.astype(np.float32),
        (fill_way / np.linalg.norm(fill_way)).astype(np.float32),
        (rng.uniform(0.05, 0.3) * cool * e).astype(np.float32),
        (ambient * 1.15).astype(np.float32),
        (ambient * rng.uniform(0.35, 0.8)).astype(np.float32),
        float(rng.uniform(0.08, 0.3)),
    )


def _as_in(ground: NDArray[np.uint8], light: Light) -> Light:
    """The same light, as bright as the middle of a photo is."""
    middle = ground[HEIGHT // 3 : 2 * HEIGHT // 3, WIDTH // 3 : 2 * WIDTH // 3]
    wanted = float((middle.mean() / 255) ** 2) / 0.4
    factor = wanted / max(float((light.key + light.sky).mean()), 0.05)
    return replace(
        light,
        key=light.key * factor,
        fill=light.fill * factor,
        sky=light.sky * factor,
        ground=light.ground * factor,
    )


def _before(drawn: NDArray[np.uint8], ground: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawing (H, W, 4) over a ground (H, W, 3), as far as it covers it."""
    cover = drawn[..., 3:].astype(np.float32) / 255
    return np.clip(ground * (1 - cover) + drawn[..., :3] * cover, 0, 255).astype(np.uint8)


def _behind(
    backgrounds: list[NDArray[np.uint8]], shot: Shot, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """A part of a background picture, or a plain ground with a soft slope of light."""
    if shot.background < 0 or not backgrounds:
        base = rng.uniform(20, 235, 3) * 0.3 + rng.uniform(20, 235) * 0.7
        slope = np.linspace(-1, 1, HEIGHT)[:, None, None] * rng.normal(0, 18)
        plain = np.broadcast_to(base + slope, (HEIGHT, WIDTH, 3))
        return np.clip(plain, 0, 255).astype(np.uint8)
    picture = backgrounds[shot.background]
    zoom = rng.uniform(1.15, 2.2)
    size = round(max(HEIGHT, WIDTH) * zoom)
    big = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR)
    y, x = int(rng.integers(size - HEIGHT + 1)), int(rng.integers(size - WIDTH + 1))
    part = big[y : y + HEIGHT, x : x + WIDTH]
    if rng.random() < 0.5:
        part = cv2.GaussianBlur(part, (0, 0), float(rng.uniform(1, 6)))
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return np.array(part, np.uint8)


def _covered(hidden: Floats, flat: NDArray[np.float64]) -> Floats:
    """How far each landmark (68,) is covered, 0–1."""
    if not hidden.any():
        return np.zeros(68, np.float32)
    soft = cv2.GaussianBlur(hidden, (0, 0), 2.5)
    at = flat.astype(np.float32)
    found = cv2.remap(soft, at[:, 0], at[:, 1], cv2.INTER_LINEAR)
    return np.asarray(found, np.float32).reshape(-1)


def _unknown(labels: NDArray[np.float64], covered: Floats, shot: Shot) -> NDArray[np.float64]:
    """Labels without those whose evidence is covered, or on which coders would not agree."""
    known = labels.copy()
    for key, marks in _EVIDENCE.items():
        if covered[list(marks)].mean() > _HIDDEN:
            known[AU_INDEX[key]] = np.nan
    frown, nose = AU_INDEX["AU4"], AU_INDEX["AU9"]
    asked = shot.au_sides[frown].max()
    if asked == 0 and labels[nose].max() >= 1:  # the nose lowers the brows too: not scored apart
        known[frown] = np.nan
    lip, smile = AU_INDEX["AU10"], AU_INDEX["AU12"]
    if shot.au_sides[lip].max() == 0 and labels[smile].max() >= 1:
        # teeth bared by a smile are not scored as AU10, and cannot be told from a slight one
        known[lip] = np.where(labels[lip] >= 0.5, np.nan, labels[lip])
    if shot.gaze_deg[0] < -18:  # lids that follow the eyes down look shut
        shut = AU_INDEX["AU43"]
        known[shut] = np.where(labels[shut] >= 3, labels[shut], np.nan)
    return known
