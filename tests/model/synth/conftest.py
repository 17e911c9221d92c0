"""Heads to draw with: a toy one that is always there, and the real one of the shared data."""

from __future__ import annotations

import importlib.util
import os
import sys
from concurrent.futures import Executor, Future
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

DATA = Path(__file__).parents[4] / "shared" / "data"
BOTH = ["toy", pytest.param("real", marks=pytest.mark.data)]


def _toy_module():
    path = Path(__file__).parent / "toy_head.py"
    spec = importlib.util.spec_from_file_location("toy_head", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["tests_toy_head"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def toys():
    """The module toy_head.py."""
    return _toy_module()


@pytest.fixture(scope="session")
def toy_head(toys):
    """The toy head; not to be changed."""
    return toys.head()


@pytest.fixture(scope="session")
def toy_file(toys, tmp_path_factory):
    """The toy head as compact file."""
    path = tmp_path_factory.mktemp("head") / "toy.npz"
    np.savez(path, **toys.compact(toys.head()))
    return path


@pytest.fixture(scope="session")
def data():
    """The folder of the shared data."""
    if not DATA.is_dir():
        pytest.skip("the shared data is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def real_head(data):
    """The head of the shared data."""
    from feallm.model.synth import head

    return head.read(data / "head" / "ict_head.npz")


@pytest.fixture(params=BOTH)
def head(request):
    """Both heads, one after the other."""
    return request.getfixturevalue(f"{request.param}_head")


@pytest.fixture(scope="session")
def opengl():
    """Skips where nothing can be drawn without a screen."""
    os.environ.setdefault("LP_NUM_THREADS", "0")
    moderngl = pytest.importorskip("moderngl", reason="drawing needs moderngl")
    try:
        moderngl.create_context(standalone=True, backend="egl").release()
    except Exception as error:  # bare exceptions of several kinds
        pytest.skip(f"no OpenGL without a screen: {error}")


def _kept(head):
    """A studio that a `with` does not close, so that many tests can share it."""
    from feallm.model.synth.render import Studio

    class Kept(Studio):
        def __exit__(self, *error):
            """Stay open."""

    return Kept(head)


@pytest.fixture(scope="session")
def toy_studio_kept(opengl, toy_head):
    """One for all tests; take `toy_studio`."""
    made = _kept(toy_head)
    yield made
    made.canvas.close()


@pytest.fixture(scope="session")
def real_studio_kept(opengl, real_head):
    """One for all tests; take `real_studio`."""
    made = _kept(real_head)
    yield made
    made.canvas.close()


@pytest.fixture
def toy_studio(toy_studio_kept):
    """A studio of the toy head, its context current."""
    with toy_studio_kept.canvas.gl:
        yield toy_studio_kept


@pytest.fixture
def real_studio(real_studio_kept):
    """A studio of the real head, its context current."""
    with real_studio_kept.canvas.gl:
        yield real_studio_kept


@pytest.fixture(params=BOTH)
def studio(request):
    """Both studios, one after the other."""
    return request.getfixturevalue(f"{request.param}_studio")


@pytest.fixture(scope="session")
def grounds_file(tmp_path_factory):
    """Eight backgrounds, one of them without a clear licence."""
    rng = np.random.default_rng(0)
    pictures = []
    for small in rng.integers(0, 256, (8, 4, 4, 3), dtype=np.uint8):
        big = cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".png", big)[1].tobytes())
    path = tmp_path_factory.mktemp("grounds") / "backgrounds.npz"
    np.savez(
        path,
        data=np.frombuffer(b"".join(pictures), np.uint8),
        offsets=np.cumsum([0, *map(len, pictures)]),
        names=np.array(list("hgfedcba")),
        licence_clear=np.array([1, 1, 1, 1, 1, 1, 0, 1], np.uint8),
    )
    return path


class Here(Executor):
    """A pool that works in this process, at once."""

    def __init__(self, workers, context):
        super().__init__()

    def submit(self, work, *given):
        """The work, done."""
        done = Future()
        try:
            done.set_result(work(*given))
        except BaseException as error:
            done.set_exception(error)
        return done


BLOCK = 6  # faces of a part: the second person's four are split between two


@pytest.fixture(scope="session")
def toy_pack(toy_studio_kept, toy_file, grounds_file, tmp_path_factory):
    """A pack of 14 faces in three parts; not to be changed."""
    out = tmp_path_factory.mktemp("toy") / "whole"
    with pytest.MonkeyPatch.context() as patch, toy_studio_kept.canvas.gl:
        _maker(patch, toy_studio_kept, toy_file, grounds_file)(out)
    return out


@pytest.fixture
def make(toy_studio, toy_file, grounds_file, monkeypatch):
    """`pack.make` of the toy head in this process: small blocks, and a studio that is there."""
    return _maker(monkeypatch, toy_studio, toy_file, grounds_file)


def _maker(patch, studio, head, grounds):
    from feallm.model.synth import pack

    patch.setattr(pack, "BLOCK", BLOCK)
    patch.setattr(pack, "ProcessPoolExecutor", Here)
    patch.setattr(pack, "Studio", lambda head: studio)
    # A second context in this process would take the place of the studio's own.
    patch.setattr(pack, "open_gl", lambda: SimpleNamespace(release=lambda: None))

    def make(out, n=14, seed=1, *, head=head, step=lambda k: None, **more):
        return pack.make(pack.Job(head, grounds, n, seed, **more), out, workers=1, step=step)

    return make
