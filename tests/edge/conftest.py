"""Pictures whose red rectangles are faces, and a command whose analyzer believes it."""

from __future__ import annotations

import importlib.util
import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

FAKE = Path(__file__).parent / "fake_analyzer.py"


@pytest.fixture
def fake_script():
    """The file that is `feallm` with the stand-in, for tests in a process of their own."""
    return FAKE


@pytest.fixture
def fake(monkeypatch):
    """The stand-in that the command will use."""
    spec = importlib.util.spec_from_file_location("fake_analyzer", FAKE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    analyzer = module.FakeAnalyzer()

    def opened(request):
        analyzer.expression = request.expression
        return analyzer

    monkeypatch.setattr("feallm.edge.analyze.open_analyzer", opened)
    monkeypatch.setattr("feallm.edge.bench.open_analyzer", lambda request: analyzer)
    return analyzer


@pytest.fixture
def feallm(capfd, monkeypatch, tmp_path):
    """Call the command in an empty folder; gives exit code, stdout and stderr."""
    from feallm.edge import cli

    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def call(*words):
        monkeypatch.setattr("sys.argv", ["feallm", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return stop.value.code or 0, out, err

    return call


@pytest.fixture
def photo():
    """Write a photo with red rectangles at the given x positions."""

    def write(path, *places, size=(160, 120)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), scene(size, places))
        return path

    return write


@pytest.fixture
def video():
    """Write a video at 10 frames a second; `places` holds the x positions of each frame."""

    def write(path, places, size=(160, 120)):
        out = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size)
        for each in places:
            out.write(scene(size, each))
        out.release()
        return path

    return write


def scene(size, places):
    """BGR picture: gray, with a red rectangle 40 x 50 at each x."""
    pixels = np.full((size[1], size[0], 3), 120, np.uint8)
    for x in places:
        pixels[30:80, x : x + 40] = (20, 20, 230)
    return pixels


@pytest.fixture
def rows():
    """The rows of a folder."""

    def read(folder):
        return [json.loads(s) for s in (Path(folder) / "readings.jsonl").read_text().splitlines()]

    return read


@pytest.fixture
def index_first():
    """The bytes of a video with its index before its frames."""
    change = runpy.run_path(str(Path(__file__).parents[1] / "mp4.py"))["index_first"]
    return lambda path: change(path.read_bytes())
