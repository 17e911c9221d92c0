"""The language model: LoRA, causality, and its maths against formulas written here again."""

import numpy as np
import pytest
import torch

from feallm.model.language import LoraLinear, RmsNorm, rotate


@pytest.fixture
def embeddings(tiny):
    torch.manual_seed(5)
    return torch.randn(2, 20, tiny.CONFIG.language.width) * 0.3


def with_lora(tiny):
    language = tiny.language()
    parameters = language.add_lora(4, 8.0)
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    return language, parameters


@torch.no_grad()
def test_merged_and_unmerged_logits_agree(tiny, embeddings):
    language, _ = with_lora(tiny)
    plain = tiny.language()(embeddings)
    apart = language(embeddings)
    language.merge_lora()
    assert (apart - plain).abs().max() > 0.1, "this LoRA would show nothing"
    assert (language(embeddings) - apart).abs().max() < 1e-4
    assert set(language.state_dict()) == set(tiny.language().state_dict())


@torch.no_grad()
def test_fresh_lora_changes_nothing(tiny, embeddings):
    language = tiny.language()
    language.add_lora(4, 8.0)
    assert torch.equal(language(embeddings), tiny.language()(embeddings))


def test_lora_alone_is_trained(tiny, embeddings):
    language, parameters = with_lora(tiny)
    language(embeddings).square().mean().backward()
    trained = [p for p in language.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in parameters}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    assert len(parameters) == 2 * 4 * tiny.CONFIG.language.layers


def test_lora_is_the_formula():
    torch.manual_seed(1)
    linear = LoraLinear(6, 5)
    a, b = linear.add_lora(3, 12.0)
    torch.nn.init.normal_(b)
    x = torch.randn(4, 6)
    w = linear.weight.detach().numpy().astype(np.float64)
    low = b.detach().numpy().astype(np.float64) @ a.detach().numpy().astype(np.float64)
    expected = x.numpy().astype(np.float64) @ (w + 12.0 / 3 * low).T
    np.testing.assert_allclose(linear(x).detach().numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_a_later_token_does_not_reach_back(tiny, embeddings):
    language = tiny.language()
    before = language(embeddings)
    changed = embeddings.clone()
    changed[:, 13] += 1.0
    after = language(changed)
    torch.testing.assert_close(after[:, :13], before[:, :13], rtol=0, atol=1e-6)
    assert (after[:, 13:] - before[:, 13:]).abs().amax(2).min() > 1e-4


def test_rms_norm_is_the_formula():
    torch.manual_seed(2)
    norm = RmsNorm(8, 1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(3, 4, 8) * 3
    wide = x.numpy().astype(np.float64)
    rms = np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5)
    expected = wide / rms * norm.weight.detach().numpy()
    np.testing.assert_allclose(norm(x).detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_rotary_positions_turn_pairs_as_complex_numbers(tiny):
    """Components j and j + depth / 2 of a head turn by position * theta^(-2 j / depth)."""
    config, language = tiny.CONFIG.language, tiny.language()
    depth, positions = config.width // config.heads, 60
    torch.manual_seed(3)
    x = torch.randn(2, config.heads, positions, depth)
    wide = x.numpy().astype(np.float64)
    pairs = wide[..., : depth // 2] + 1j * wide[..., depth // 2 :]
    step = config.rope_theta ** (-2 * np.arange(depth // 2) / depth)
    turned = pairs * np.exp(1j * np.arange(positions)[:, None] * step)
    expected = np.concatenate([turned.real, turned.imag], -1)
    found = rotate(x, language.cos[:positions], language.sin[:positions])
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_attention_is_the_formula(tiny, embeddings):
    """One block against loops in float64: positions, causality, scale, SwiGLU, both ways around."""
    config, language = tiny.CONFIG.language, tiny.language()
    (block,) = language.blocks
    x = embeddings[0].numpy().astype(np.float64)
    weights = {n: p.numpy().astype(np.float64) for n, p in block.named_parameters()}

    def norm(values, name):
        rms = np.sqrt((values**2).mean(-1, keepdims=True) + config.norm_eps)
        return values / rms * weights[f"{name}.weight"]

    depth = config.width // config.heads
    step = config.rope_theta ** (-2 * np.arange(depth // 2) / depth)
    turn = np.exp(1j * np.arange(len(x))[:, None] * step)
    h = norm(x, "attn_norm")
    read = np.zeros_like(x)
    for k in range(config.heads):
        part = slice(k * depth, (k + 1) * depth)
        q, key, v = (h @ weights[f"{name}.weight"][part].T for name in "qkv")
        q, key = ((m[:, : depth // 2] + 1j * m[:, depth // 2 :]) * turn for m in (q, key))
        score = (q @ key.conj().T).real / np.sqrt(depth)
        score[np.triu_indices(len(x), 1)] = -np.inf
        share = np.exp(score - score.max(1, keepdims=True))
        read[:, part] = share / share.sum(1, keepdims=True) @ v
    x = x + read @ weights["o.weight"].T
    h = norm(x, "ffn_norm")
    gate = h @ weights["gate.weight"].T
    inner = gate / (1 + np.exp(-gate)) * (h @ weights["up.weight"].T)
    x = x + inner @ weights["down.weight"].T
    length = embeddings.shape[1]
    found = block(embeddings, language.cos[:length], language.sin[:length])[0]
    np.testing.assert_allclose(found.numpy(), x, atol=1e-4)
