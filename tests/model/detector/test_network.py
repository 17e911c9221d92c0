"""The network's shapes, its configuration, and its decoding against OpenCV's own."""

import cv2
import numpy as np
import pytest
import torch

from feallm.export.detector import fused, write
from feallm.model.detector.loss import decode
from feallm.model.detector.network import Detector, DetectorConfig


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32), (224, 320)])
def test_a_cell_for_every_8_16_and_32_pixels(finder, size):
    height, width = size
    with torch.no_grad():
        levels = finder(torch.zeros(2, 3, height, width))
    shapes = [tuple(level.shape) for level in levels]
    assert shapes == [(2, 16, height // s, width // s) for s in (8, 16, 32)]
    said = decode(levels)
    cells = sum(height * width // s**2 for s in (8, 16, 32))
    assert said.cls.shape == said.obj.shape == (2, cells)
    assert said.boxes.shape == (2, cells, 4) and said.points.shape == (2, cells, 5, 2)
    assert said.middles.shape == (cells, 2) and said.strides.shape == (cells,)


def test_a_configuration_there_and_back():
    config = DetectorConfig(stem=8, levels=(16, 24, 32), blocks=(1, 2, 1), neck=24)
    fields = config.to_dict()
    assert DetectorConfig.from_dict({**fields, "levels": list(fields["levels"])}) == config
    shapes = [tuple(level.shape[1:]) for level in Detector(config)(torch.zeros(2, 3, 64, 64))]
    assert shapes == [(16, 8, 8), (16, 4, 4), (16, 2, 2)]


def test_a_new_network_believes_in_no_face():
    torch.manual_seed(0)
    said = decode(Detector().eval()(torch.rand(1, 3, 64, 64)))
    assert (said.cls.sigmoid() * said.obj.sigmoid()).sqrt().max() < 0.1


@pytest.fixture(scope="module")
def file(finder, tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "detector.onnx"
    write(finder, path)
    return path


@pytest.mark.parametrize("size", [(320, 320), (96, 160), (100, 75), (33, 257), (240, 427)])
def test_boxes_are_those_that_opencv_decodes(finder, file, size):
    """Every cell of every level: its box, its points and its score, whatever the sides."""
    height, width = size
    picture = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    found = cv2.FaceDetectorYN.create(str(file), "", (width, height), 0.0, 1.0).detect(picture)[1]

    network = fused(finder)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):  # as the file holds them
                module.weight.copy_(module.weight.half().float())
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
        padded[:height, :width] = picture
        said = decode(network(torch.from_numpy(padded).permute(2, 0, 1)[None]))
    score = (said.cls.sigmoid() * said.obj.sigmoid()).sqrt()[0]
    boxes, points = said.boxes[0], said.points[0].flatten(1)
    own = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], points, score[:, None]], 1).numpy()

    assert len(found) == len(own) == padded.shape[0] * padded.shape[1] * 21 // 1024
    twins = ((found[:, None] - own[None]) ** 2).sum(2).argmin(1)
    assert len(np.unique(twins)) == len(own), "two of OpenCV's boxes are one of torch's"
    # The widest boxes span hundreds of pixels: the two sum in another order.
    np.testing.assert_allclose(found[:, :14], own[twins, :14], rtol=2e-4, atol=1e-2)
    np.testing.assert_allclose(found[:, 14], own[twins, 14], atol=2e-4)
    assert own[:, 14].std() > 0.02 and np.ptp(own[:, 2]) > 20, "the boxes are all alike"
