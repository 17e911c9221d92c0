"""The eye as a whole: what goes in, and what its outputs promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from feallm.model.config import SIZES, VisionConfig
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.landmarks import MIRRORED


@pytest.fixture(scope="module")
def network(tiny):
    return tiny.vision()


@pytest.fixture(scope="module")
def crops(tiny):
    return torch.from_numpy(tiny.crops(6))


@torch.no_grad()
def test_gray_and_equal_colours_are_one_picture(network, crops):
    gray = crops[..., 0]
    alone = network(gray)
    colour = network(gray.unsqueeze(-1).expand(-1, -1, -1, 3))
    for a, b in zip(alone, colour, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pixels_are_luma_about_mid_gray(network):
    crop = torch.zeros(1, 128, 112, 3, dtype=torch.uint8)
    crop[:, :64] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    crop[:, 64:] = 255
    picture = network.pixels(crop)
    assert picture.shape == (1, 1, 64, 56)  # shrink is 2
    torch.testing.assert_close(picture[0, 0, 0, 0], torch.tensor(4 * 0.299 - 2))
    torch.testing.assert_close(picture[0, 0, -1, -1], torch.tensor(2.0))


@torch.no_grad()
def test_outputs_keep_their_promises(network, crops):
    probability, intensity, expression, tokens = network(crops)
    assert probability.shape == (6, 20) and intensity.shape == (6, 20, 2)
    assert tokens.shape == (6, 17, 256)
    assert ((probability > 0) & (probability < 1)).all()
    assert ((intensity >= 0) & (intensity <= 5)).all()
    torch.testing.assert_close(expression.sum(1), torch.ones(6))
    assert np.ptp(expression.numpy(), axis=0).max() > 0.05, (
        "the random network tells no faces apart"
    )


@torch.no_grad()
def test_intensities_far_outside_are_cut(tiny, crops):
    network = tiny.vision()
    network.intensity_head.bias.fill_(100.0)
    assert network(crops)[1].max() == 5
    network.intensity_head.bias.fill_(-100.0)
    assert network(crops)[1].min() == 0


@torch.no_grad()
def test_a_face_does_not_hang_on_its_batch_mates(network, crops):
    together = network(crops)
    for k in range(len(crops)):
        for whole, one in zip(together, network(crops[k : k + 1]), strict=True):
            torch.testing.assert_close(whole[k : k + 1], one, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_temperature_softens_the_expression_alone(tiny, crops):
    cool, warm = tiny.vision(), tiny.vision()
    warm.temperature.fill_(2.5)
    a, b = cool(crops), warm(crops)
    assert torch.equal(a[0], b[0]) and torch.equal(a[3], b[3])
    assert torch.equal(a[2].argmax(1), b[2].argmax(1))
    assert (b[2].amax(1) < a[2].amax(1)).all()


def test_the_expression_loss_does_not_move_the_au_head(network, crops):
    seen = network.see(crops)
    seen.expression_logits.square().sum().backward()
    assert network.au_head.weight.grad is None
    assert network.expression_head.weight.grad.abs().sum() > 0
    network.zero_grad()


@pytest.mark.parametrize("name", SIZES)
def test_every_size_and_table_builds(name):
    config = SIZES[name]
    for vision in (config.vision, replace(config.vision, table="paper16", skip=False)):
        network = VisionNetwork(vision, config.language.width).eval()
        with torch.no_grad():
            assert network(torch.zeros(1, 128, 112, 3, dtype=torch.uint8))[3].shape == (
                1,
                17,
                config.language.width,
            )


@pytest.fixture(scope="module")
def placed(tiny):
    """The tiny network, with sides and places."""
    torch.manual_seed(2)
    config = replace(tiny.CONFIG.vision, place=4)
    return VisionNetwork(config, tiny.CONFIG.language.width).eval()


@torch.no_grad()
def test_the_larger_side_is_the_face(placed, crops):
    seen = placed.see(crops)
    assert seen.side_logits.shape == (6, 20, 2)
    assert torch.equal(seen.au_logits, seen.side_logits.amax(2))
    assert (seen.side_logits[..., 0] != seen.side_logits[..., 1]).any()


@torch.no_grad()
def test_the_likelier_side_is_the_stronger_one(placed, crops):
    seen, (*_, sides) = placed.see(crops), placed(crops)
    logits = sides.logit()
    torch.testing.assert_close(logits.amax(2), seen.side_logits.amax(2), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits.amin(2), seen.side_logits.amin(2), rtol=1e-3, atol=1e-4)
    stronger = seen.intensity[..., 0] > seen.intensity[..., 1]
    assert torch.equal(sides[..., 0] > sides[..., 1], stronger)
    assert not torch.equal(seen.side_logits[..., 0] > seen.side_logits[..., 1], stronger)


@torch.no_grad()
def test_the_heads_read_f_3_cell_by_cell(tiny, crops):
    """A cell of F_3 moves the sides: without `near`, only its pooled traces could."""
    config = replace(tiny.CONFIG.vision, place=4, near=2)
    network = VisionNetwork(config, tiny.CONFIG.language.width).eval()
    before = network.see(crops[:1]).side_logits
    cells = network.near_conv.out_channels * 7 * 8
    weight = network.au_head.weight
    assert weight.shape[1] == 16 * config.width + config.width + 4 * 4 * 4 + cells
    weight[:, -cells:] = 0
    assert not torch.equal(network.see(crops[:1]).side_logits, before)


@torch.no_grad()
def test_places(placed, crops):
    *_, landmarks, pose, gaze, sides = placed(crops)
    assert sides.shape == (6, 20, 2) and ((sides > 0) & (sides < 1)).all()
    assert landmarks.shape == (6, 68, 2) and pose.shape == (6, 3) and gaze.shape == (6, 2)
    # Untrained, they lie about the middle of the crop.
    torch.testing.assert_close(landmarks.mean((0, 1)), torch.tensor([56.0, 64]), rtol=0, atol=12)


def test_a_network_without_places(network, crops):
    with torch.no_grad():
        seen = network.see(crops)
    assert seen.side_logits is None and seen.place is None and len(network(crops)) == 4


def test_a_mirrored_face_swaps_sides_and_nothing_else():
    config = VisionConfig((4, 8, 8, 8), (0, 1, 1, 1), 2, 32, 4, mirror=True, place=4)
    torch.manual_seed(5)
    network = VisionNetwork(config, 256).eval()
    crops = torch.randint(0, 256, (3, 128, 112, 3), dtype=torch.uint8)
    with torch.no_grad():
        plain, mirrored = network(crops), network(crops.flip(2))
        one_look = network.see(crops)
    torch.testing.assert_close(mirrored[0], plain[0])
    torch.testing.assert_close(mirrored[1], plain[1].flip(2))
    torch.testing.assert_close(mirrored[2], plain[2])
    landmarks = plain[4][:, list(MIRRORED)]
    landmarks[..., 0] = 111 - landmarks[..., 0]
    torch.testing.assert_close(mirrored[4], landmarks, atol=1e-3, rtol=0)
    torch.testing.assert_close(mirrored[5], plain[5] * torch.tensor([1.0, -1.0, -1.0]))
    torch.testing.assert_close(mirrored[6], plain[6] * torch.tensor([1.0, -1.0]))
    torch.testing.assert_close(mirrored[7], plain[7].flip(2))
    torch.testing.assert_close(network.answer(crops).x_3, one_look.x_3)  # the words' features
    assert not torch.allclose(one_look.au_logits.sigmoid(), plain[0])
