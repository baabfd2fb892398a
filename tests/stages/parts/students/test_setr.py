from __future__ import annotations

import torch
import torch.nn.functional as F

from stages.parts.students.setr import SETR


def test_positions_are_used_as_they_are_at_512_pixels_and_interpolated_elsewhere():
    torch.manual_seed(0)
    encoder = SETR("vit_ti16", False, 32, 8).encoder
    assert encoder.pos_embed.shape == (1, 1 + 32 * 32, 192)
    at_512 = encoder._pos_embed(torch.zeros(1, 32, 32, 192))
    torch.testing.assert_close(at_512[:, 1:], encoder.pos_embed[:, 1:])
    torch.testing.assert_close(at_512[:, 0], encoder.pos_embed[:, 0] + encoder.cls_token[:, 0])
    assert encoder._pos_embed(torch.zeros(1, 4, 6, 192)).shape == (1, 25, 192)


def test_the_naive_head_is_what_the_method_says():
    torch.manual_seed(0)
    net = SETR("vit_ti16", False, 32, 8).eval()
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        net.decode_head.bn.running_mean.normal_()
        tokens = net.encoder.norm(
            net.encoder.forward_intermediates(images, indices=1, output_fmt="NLC", intermediates_only=True)[0]
        )
        grid = torch.stack([tokens[:, y * 3 + x] for y in range(2) for x in range(3)], dim=-1).view(1, 192, 2, 3)
        x = F.conv2d(grid, net.decode_head.conv.weight)
        x = F.interpolate(net.decode_head.bn(x).relu(), scale_factor=4, mode="bilinear")
        expected = F.conv2d(x, net.decode_head.conv_seg.weight, net.decode_head.conv_seg.bias)
        # F's rows and columns are the image's, not the tokens' order mixed up.
        torch.testing.assert_close(net(images), expected)
