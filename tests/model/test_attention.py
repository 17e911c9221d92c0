"""Attention of the eye, against torch's own with the same weights."""

import torch
from torch import nn

from feallm.model.attention import Attention


@torch.no_grad()
def test_it_is_multi_head_attention_behind_norms():
    torch.manual_seed(0)
    mine, reference = Attention(32, 4).eval(), nn.MultiheadAttention(32, 4, batch_first=True)
    parts = (mine.query, mine.key, mine.value)
    reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
    reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
    reference.out_proj.weight.copy_(mine.out.weight)
    reference.out_proj.bias.copy_(mine.out.bias)
    queries, keys = torch.randn(2, 5, 32), torch.randn(2, 9, 32) * 2
    normed = mine.norm_key(keys)
    expected, _ = reference(mine.norm_query(queries), normed, normed)
    torch.testing.assert_close(mine(queries, keys), expected, rtol=1e-4, atol=1e-5)
