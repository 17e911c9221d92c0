"""What the detector's tests share: heads, photographs of drawn faces, a network that finds some."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

HEADS = Path(__file__).parent / "heads.npz"


@pytest.fixture
def heads() -> Path:
    """16 rendered heads of as many people: the whole face of each is seen."""
    return HEADS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A `photos.npz` of 8: six of 96 pixels and two of 48; the first and the last may teach the
    clean file; the third has a face that is half believed beside one that is sure, the second
    none."""
    rng = np.random.default_rng(0)
    images, faces, whose = [], [], []
    for k in range(8):
        side = 96 if k < 6 else 48
        picture = cv2.resize(rng.integers(0, 256, (12, 12, 3), np.uint8), (side, side))
        quality = [cv2.IMWRITE_JPEG_QUALITY, 98 if k < 6 else 60]
        images.append(cv2.imencode(".jpg", picture, quality)[1].tobytes())
        for score in {1: (), 2: (0.9, 0.4)}.get(k, (0.9,)):
            box = np.array([0.2, 0.2, 0.4, 0.5]) * side
            points = (box[:2] + rng.uniform(0.2, 0.8, (5, 2)) * box[2:]).ravel()
            faces.append([*box, *points, score])
            whose.append(k)
    path = tmp_path / "photos.npz"
    np.savez(
        path,
        images=np.frombuffer(b"".join(images), np.uint8),
        offsets=np.cumsum([0, *map(len, images)]),
        clean=np.arange(8) % 7 == 0,
        faces=np.array(faces, np.float32),
        picture=np.array(whose, np.int32),
    )
    return path


@pytest.fixture(scope="session")
def finder():
    """A network of random weights that finds something in every picture; not to be changed."""
    return random_network(0)


@pytest.fixture(scope="session")
def other():
    """Another one."""
    return random_network(1)


def random_network(seed):
    torch = pytest.importorskip("torch", reason="the detector's network needs torch")
    torch.set_num_threads(1)
    from feallm.model.detector.network import Detector

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Detector()
        noise = torch.rand(2, 3, 96, 96) * 255
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # its statistics are those of the one picture that comes
        with torch.no_grad():
            for head in network.heads:
                head.said.weight.normal_(std=0.05)
                head.said.bias.uniform_(-0.5, 0.5)
            network.train()(noise)
    return network.eval()
