"""Draws a head with OpenGL, without a screen (EGL; Mesa's software renderer is enough).

One `Canvas` owns the context and what stays on it: triangles, furrow maps, strands. A picture is
drawn at `HEIGHT` x `WIDTH` and shrunk later, which smooths its edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.synth import furrows, shaders
from feallm.model.synth.mesh import Group, Mesh
from feallm.model.synth.skin import SIZE as PAINT_SIZE
from feallm.model.synth.skin import Guide
from feallm.runtime.contract.errors import BackendError

Floats = NDArray[np.float32]

WIDTH, HEIGHT = 188, 210


@dataclass(frozen=True, slots=True)
class Light:
    """Light in camera space; directions are unit vectors towards it, colours linear RGB."""

    key_from: Floats
    key: Floats
    fill_from: Floats
    fill: Floats
    sky: Floats
    ground: Floats
    wrap: float


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the head stands before the camera."""

    turn: Floats  # (3, 3) head to camera
    centre: Floats  # (3,) point of the head that the camera looks at, cm
    distance: float  # cm
    focal: float  # pixels of the canvas
    offset: tuple[float, float] = (0.0, 0.0)  # of the picture's middle, pixels

    @property
    def degrees(self) -> tuple[float, float, float]:
        """Pitch, yaw and roll of `turn`: yaw first, then pitch, roll last."""
        t = self.turn
        pitch = -np.arcsin(np.clip(t[2, 1], -1, 1))
        yaw, roll = np.arctan2(-t[2, 0], t[2, 2]), np.arctan2(-t[0, 1], t[1, 1])
        found = np.rad2deg([pitch, yaw, roll])
        return float(found[0]), float(found[1]), float(found[2])

    def view(self) -> Floats:
        """Head to camera (4, 4); the camera looks along -z."""
        m = np.eye(4, dtype=np.float32)
        m[:3, :3] = self.turn
        m[:3, 3] = -self.turn @ self.centre - np.array([0, 0, self.distance])
        return m

    def lens(self) -> Floats:
        """Camera to clip space (4, 4)."""
        near, far = 5.0, self.distance + 60.0
        m = np.zeros((4, 4), np.float32)
        m[0, 0], m[1, 1] = 2 * self.focal / WIDTH, 2 * self.focal / HEIGHT
        m[0, 2], m[1, 2] = -2 * self.offset[0] / WIDTH, 2 * self.offset[1] / HEIGHT
        m[2, 2], m[2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
        m[3, 2] = -1
        return m

    def camera(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Camera coordinates (N, 3) of points of the head (N, 3)."""
        m = self.view().astype(np.float64)
        return np.asarray(points @ m[:3, :3].T + m[:3, 3])

    def pixels(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Canvas pixels (N, 2) of points of the head; pixel centres at whole numbers."""
        seen = self.camera(points)
        x = WIDTH / 2 + self.offset[0] + self.focal * seen[:, 0] / -seen[:, 2]
        y = HEIGHT / 2 + self.offset[1] - self.focal * seen[:, 1] / -seen[:, 2]
        return np.stack([x, y], 1) - 0.5


@dataclass(frozen=True, slots=True)
class Eyes:
    """Look of the eyes. Colours sRGB 0–1, radii in cm."""

    iris_tone: tuple[float, float, float]
    white_tone: tuple[float, float, float]
    pupil: float
    iris: float


@dataclass(frozen=True, slots=True)
class Photo:
    """A photograph that lends its pixels to the skin."""

    picture: NDArray[np.uint8]  # (H, W, 3) RGB
    at: Floats  # (skin vertices, 2) places in it, 0–1, y downwards


@dataclass(frozen=True, slots=True)
class Hair:
    """A shell over the scalp. `cover` 0–1 and `thickness` cm for each skin vertex."""

    cover: Floats
    thickness: Floats
    tone: tuple[float, float, float]
    cloth: bool


def around(axis: int, angle: float) -> NDArray[np.float64]:
    """Rotation (3, 3) about the x, y or z axis by the right hand, radians."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = [(1, 2), (2, 0), (0, 1)][axis]
    m = np.eye(3)
    m[a, a], m[a, b], m[b, a], m[b, b] = c, -s, s, c
    return m


def open_gl() -> Any:
    """An OpenGL context without a screen; `BackendError` where there is none to be had."""
    try:
        import moderngl
    except ImportError as error:
        raise BackendError(
            "drawing faces needs moderngl", hint="pip install 'feallm-edge[render]'"
        ) from error
    try:
        create: Any = moderngl.create_context  # its annotations know no backend's name
        return create(standalone=True, backend="egl")
    except Exception as error:  # glcontext raises bare exceptions of several kinds
        raise BackendError(
            f"no OpenGL without a screen: {' '.join(str(error).split())}",
            hint="install EGL and Mesa (Debian: libegl1 libgl1-mesa-dri)",
        ) from error


class Canvas:
    """An OpenGL context with the head's triangles on it. Close it."""

    def __init__(self, mesh: Mesh, guide: Guide) -> None:
        """Raises `BackendError` where no context can be had."""
        self.gl = open_gl()
        self.mesh = mesh
        gl = self.gl
        self.frame = gl.framebuffer(
            [gl.renderbuffer((WIDTH, HEIGHT), 4)], gl.depth_renderbuffer((WIDTH, HEIGHT))
        )
        self.skin = _Layer(gl, shaders.SKIN, mesh.skin)
        self.eyes = _Layer(gl, shaders.EYES, mesh.eyes)
        self.mouth = _Layer(gl, shaders.MOUTH, mesh.mouth)
        self.hair = _Layer(gl, shaders.HAIR, mesh.skin)
        self.paint = gl.texture((PAINT_SIZE, PAINT_SIZE), 3)
        self.photo = gl.texture((8, 8), 3)
        self.furrows = [self._furrows(guide, v) for v in range(furrows.VARIANTS)]
        streaks = cv2.GaussianBlur(
            np.random.default_rng(3).normal(size=(128, 512)), (0, 0), sigmaX=0.8, sigmaY=14
        )
        streaks = np.clip(0.5 + 0.22 * streaks / streaks.std(), 0, 1) * 255
        self.strands = gl.texture((512, 128), 1, streaks.astype(np.uint8).tobytes())
        self._eye_polar = _polar(mesh)

    def close(self) -> None:
        """Give the context back."""
        self.gl.release()

    def _furrows(self, guide: Guide, variant: int) -> list[Any]:
        stack = furrows.maps(guide, variant)[:, ::-1]  # OpenGL's rows go upwards
        textures = []
        for k in range(0, 12, 4):
            data = np.ascontiguousarray(np.moveaxis(stack[k : k + 4], 0, -1))
            texture = self.gl.texture((furrows.SIZE, furrows.SIZE), 4, data.tobytes())
            textures.append(texture)
        return textures

    def set_paint(self, texture: NDArray[np.uint8]) -> None:
        """The painted skin (PAINT_SIZE, PAINT_SIZE, 3) sRGB of the pictures to come."""
        self.paint.write(np.ascontiguousarray(texture[::-1]).tobytes())

    def set_photo(self, photo: Photo) -> None:
        """The photograph of the pictures to come."""
        height, width = photo.picture.shape[:2]
        self.photo.release()
        self.photo = self.gl.texture((width, height), 3, photo.picture.tobytes(), alignment=1)

    def draw(
        self,
        points: Floats,
        normals: Floats,
        hollow: Floats,
        openness: Floats,
        pose: Pose,
        light: Light,
        *,
        depths: Floats,
        relief: float,
        gloss: float,
        variant: int,
        eyes: Eyes,
        gaze: tuple[Floats, Floats],
        eye_frames: tuple[Floats, Floats],
        teeth_tone: tuple[float, float, float],
        mouth_open: bool,
        hair: Hair | None = None,
        photo: Photo | None = None,
        wide_eyes: bool = False,
    ) -> NDArray[np.uint8]:
        """The picture (HEIGHT, WIDTH, 4) sRGB with cover in the last channel.

        `points` (V, 3) cm; `normals`, `hollow`, `openness` of the skin's vertices; `depths` (2, 12)
        of the furrow maps, left and right; `gaze`: rotation (3, 3) of the left and right eyeball;
        `eye_frames`: centre (3,) of each. `wide_eyes`: lids lay bare what a photo does not show.
        """
        mesh, gl = self.mesh, self.gl
        self.frame.use()
        gl.enable_only(gl.DEPTH_TEST | gl.CULL_FACE)
        self.frame.clear(0.0, 0.0, 0.0, 0.0)
        view, lens = pose.view(), pose.lens()
        for layer in (self.skin, self.eyes, self.mouth, self.hair):
            layer.light(view, lens, light)
        if hair is not None:  # first: the skin under it then costs nothing
            self._draw_hair(points, normals, hair)
        program = self.skin.program
        self.paint.use(0)
        for k, texture in enumerate(self.furrows[variant]):
            texture.use(1 + k)
        self.photo.use(4)
        program["depth_right"].write(np.ascontiguousarray(depths[1], np.float32).tobytes())
        program["depth_left"].write(np.ascontiguousarray(depths[0], np.float32).tobytes())
        _set(program, relief=relief, gloss=gloss, from_photo=float(photo is not None))
        _set(program, paint=0, furrows_a=1, furrows_b=2, furrows_c=3, photo=4)
        extra = np.zeros((mesh.skin_vertices, 4), np.float32)
        extra[:, 0], extra[:, 1] = hollow, openness
        if photo is not None:
            extra[:, 2:] = photo.at
        rows = mesh.skin.vertex
        self.skin.draw(points[rows], normals[rows], extra[rows])
        still = photo is not None and not wide_eyes
        _set(self.eyes.program, from_photo=float(still), photo=4, picture=(WIDTH, HEIGHT))
        self._draw_eyes(points, pose, eyes, gaze, eye_frames)
        if mouth_open:
            self._draw_mouth(points, pose, teeth_tone)
        data = self.frame.read(components=4)
        return np.frombuffer(data, np.uint8).reshape(HEIGHT, WIDTH, 4)[::-1]

    def _draw_eyes(
        self,
        points: Floats,
        pose: Pose,
        eyes: Eyes,
        gaze: tuple[Floats, Floats],
        centres: tuple[Floats, Floats],
    ) -> None:
        mesh = self.mesh
        ball = points.copy()
        normal = np.zeros_like(points)
        lids = []
        for side, rows in enumerate(mesh.eye_rows):
            away = (points[rows] - centres[side]) @ gaze[side].T
            ball[rows] = centres[side] + away
            normal[rows] = away / np.linalg.norm(away, axis=1, keepdims=True)
            upper = points[mesh.landmarks[[43, 44] if side == 0 else [37, 38]]]
            lids.append(float(pose.camera(upper)[:, 1].mean()))
        _set(
            self.eyes.program,
            iris_tone=eyes.iris_tone,
            white_tone=eyes.white_tone,
            pupil=eyes.pupil,
            iris=eyes.iris,
            lid_shade=(lids[0], lids[1], 0.55),
        )
        corners = mesh.eyes.vertex
        self.eyes.draw(ball[corners], normal[corners], self._eye_polar)

    def _draw_mouth(self, points: Floats, pose: Pose, tone: tuple[float, float, float]) -> None:
        mesh = self.mesh
        lips = pose.camera(points[mesh.landmarks[[61, 62, 63]]])[:, 2].mean()
        _set(self.mouth.program, lips=float(lips), teeth_tone=tone)
        rows = mesh.mouth.vertex
        normal = np.zeros((len(rows), 3), np.float32)
        normal[:, 2] = 1.0  # teeth and tongue face out; their depth shades them
        normal[:, 0] = 0.12 * points[rows, 0]
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        extra = np.zeros((len(rows), 4), np.float32)
        extra[:, 0] = mesh.mouth.part
        self.mouth.draw(points[rows], normal, extra)

    def _draw_hair(self, points: Floats, normals: Floats, hair: Hair) -> None:
        mesh = self.mesh
        shell = points[: mesh.skin_vertices] + normals * hair.thickness[:, None]
        extra = np.zeros((mesh.skin_vertices, 4), np.float32)
        extra[:, 0] = hair.cover
        self.strands.use(0)
        _set(self.hair.program, strands=0, hair_tone=hair.tone, cloth=float(hair.cloth))
        rows = mesh.skin.vertex
        first, second, third = (hair.cover[rows] > 0.02)[mesh.skin.triangles.T]
        covered = first | second | third
        self.hair.draw(shell[rows], normals[rows], extra[rows], mesh.skin.triangles[covered])


class _Layer:
    """One group of triangles with its shader."""

    def __init__(self, gl: Any, source: tuple[str, str], group: Group) -> None:
        self.program = gl.program(vertex_shader=source[0], fragment_shader=source[1])
        self.size = len(group.vertex)
        self.buffer = gl.buffer(reserve=self.size * 40, dynamic=True)
        self.index = gl.buffer(group.triangles.astype("i4").tobytes())
        self.count = group.triangles.size
        at = gl.buffer(group.uv.astype("f4").tobytes())
        names = [name for name in ("place", "normal", "extra") if name in self.program]
        layout = [(self.buffer, _format(names), *names)]
        self.names = names
        if "at" in self.program:
            layout.append((at, "2f", "at"))
        self.array = gl.vertex_array(self.program, layout, self.index)

    def light(self, view: Floats, lens: Floats, light: Light) -> None:
        """Camera and light of the picture to come."""
        program = self.program
        program["view"].write(np.ascontiguousarray(view.T).tobytes())
        program["lens"].write(np.ascontiguousarray(lens.T).tobytes())
        for name in ("key_from", "key", "fill_from", "fill", "sky", "ground"):
            _set(program, **{name: tuple(float(v) for v in getattr(light, name))})
        _set(program, wrap=light.wrap)

    def draw(
        self,
        place: Floats,
        normal: Floats,
        extra: Floats,
        triangles: NDArray[np.int32] | None = None,
    ) -> None:
        """Draw all triangles, or only those given (T, 3)."""
        given = {"place": place, "normal": normal, "extra": extra}
        packed = np.concatenate([given[name] for name in self.names], 1).astype(np.float32)
        self.buffer.write(packed.tobytes())
        count = self.count
        if triangles is not None:
            self.index.write(np.ascontiguousarray(triangles, np.int32).tobytes())
            count = triangles.size
        self.array.render(vertices=count)


def _format(names: list[str]) -> str:
    return " ".join({"place": "3f", "normal": "3f", "extra": "4f"}[name] for name in names)


def _set(program: Any, **values: Any) -> None:
    for name, value in values.items():
        if name in program:  # compilers drop what a shader does not use
            program[name].value = value


def _polar(mesh: Mesh) -> Floats:
    """Distance from the optical axis (cm, 9 on the back half), angle, and side of eye corners."""
    points = mesh.mean.reshape(-1, 3)
    extra = np.zeros((len(points), 4), np.float32)
    for side, rows in enumerate(mesh.eye_rows):
        centre, axis, _ = eyeball(points[rows])
        away = points[rows] - centre
        along = away @ axis
        across = away - along[:, None] * axis
        distance = np.linalg.norm(across, axis=1)
        extra[rows, 0] = np.where(along > 0, distance, 9.0)
        extra[rows, 1] = np.arctan2(across[:, 1], across[:, 0])
        extra[rows, 2] = 1.0 if side == 0 else -1.0
    return np.asarray(extra[mesh.eyes.vertex], np.float32)


def eyeball(points: Floats) -> tuple[Floats, Floats, float]:
    """Centre (3,), optical axis (3,) and radius of an eyeball's front half (N, 3 points, cm).

    Least squares on |p|^2 = 2 p.c + (r^2 - |c|^2), three tenths of the points (the flat iris, the
    far side) trimmed; the axis is the normal of the plane through the foremost points.
    """
    p = points.astype(np.float64)
    front = p[p[:, 2] > np.quantile(p[:, 2], 0.45)]
    kept, centre, radius = front, front.mean(0), 1.0
    for _ in range(8):
        a = np.hstack([2 * kept, np.ones((len(kept), 1))])
        x = np.linalg.lstsq(a, (kept**2).sum(1), rcond=None)[0]
        centre, radius = x[:3], float(np.sqrt(x[3] + (x[:3] ** 2).sum()))
        off = np.abs(np.linalg.norm(front - centre, axis=1) - radius)
        kept = front[off <= np.quantile(off, 0.7)]
    foremost = p[p[:, 2] > np.quantile(p[:, 2], 0.7)]
    axis = np.linalg.svd(foremost - foremost.mean(0), full_matrices=False)[2][2]
    axis = axis * np.sign(axis[2])
    return centre.astype(np.float32), axis.astype(np.float32), radius
