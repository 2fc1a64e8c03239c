"""The paper's networks, coarse (stride 16) and fine (stride 2): Inception-v3 blocks under the official parameter names.

Descriptors are the output of the last batch normalisation: no ReLU, no normalisation of length, no temperature. All
strided layers have kernel 3 and padding 1, so output cell ``i`` is centred on input ``stride * i``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int | tuple[int, int], stride: int = 1, padding: int | None = None):
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (size[0] // 2, size[1] // 2) if padding is None else (padding, padding)
        self.conv = nn.Conv2d(cin, cout, size, stride, pad, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.bn(self.conv(x)))


class _Branches(nn.Module):
    """Chains of named layers whose outputs are concatenated."""

    def chain(self, x: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x


class InceptionA(_Branches):
    """1x1, 5x5, double 3x3 and pooled branches: 224 + ``pooled`` channels."""

    def __init__(self, cin: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(cin, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Conv(cin, 48, 1), Conv(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(cin, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(cin, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool2d(x, 3, 1, 1)
        double = self.chain(x, ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
        five = self.chain(x, ("branch5x5_1", "branch5x5_2"))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(pooled)], 1)


class InceptionB(_Branches):
    """The reduction to stride 16: 288 -> 768 channels, every branch padded by one."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(cin, 384, 3, 2, 1)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = Conv(cin, 64, 1), Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.chain(x, ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"))
        return torch.cat([self.branch3x3(x), double, nn.functional.max_pool2d(x, 3, 2, 1)], 1)


class InceptionC(_Branches):
    """Factorised 7x7 branches: 768 -> 768 channels through ``inner``."""

    def __init__(self, cin: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Conv(cin, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = Conv(cin, inner, 1), Conv(inner, inner, row)
        self.branch7x7_3 = Conv(inner, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = Conv(cin, inner, 1), Conv(inner, inner, column)
        self.branch7x7dbl_3, self.branch7x7dbl_4 = Conv(inner, inner, row), Conv(inner, inner, column)
        self.branch7x7dbl_5 = Conv(inner, 192, row)
        self.branch_pool = Conv(cin, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.chain(x, [f"branch7x7_{k}" for k in (1, 2, 3)])
        double = self.chain(x, [f"branch7x7dbl_{k}" for k in (1, 2, 3, 4, 5)])
        pooled = self.branch_pool(nn.functional.avg_pool2d(x, 3, 1, 1))
        return torch.cat([self.branch1x1(x), seven, double, pooled], 1)


class InceptionD(_Branches):
    """The next reduction at stride 1, its pooled branch replaced by the identity: 768 -> 1280 channels."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = Conv(cin, 192, 1), Conv(192, 320, 3, 1, 1)
        self.branch7x7x3_1, self.branch7x7x3_2 = Conv(cin, 192, 1), Conv(192, 192, (1, 7))
        self.branch7x7x3_3, self.branch7x7x3_4 = Conv(192, 192, (7, 1)), Conv(192, 192, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.chain(x, ("branch3x3_1", "branch3x3_2"))
        seven = self.chain(x, [f"branch7x7x3_{k}" for k in (1, 2, 3, 4)])
        return torch.cat([three, seven, x], 1)


class InceptionCoarse(nn.Module):
    """F_c: images [B, 3, H, W] -> descriptors [B, C, ceil(H / 16), ceil(W / 16)].

    Args:
        extraction_layer: ``Mixed_7a`` (1280 channels, what the published code builds) or ``Mixed_6e`` (768).
    """

    def __init__(self, extraction_layer: str = "Mixed_7a") -> None:
        super().__init__()
        if extraction_layer not in ("Mixed_7a", "Mixed_6e"):
            raise ValueError(f"extraction_layer is {extraction_layer!r}; expected 'Mixed_7a' or 'Mixed_6e'")
        layers: list[nn.Module] = [Conv(3, 32, 3, 2, 1), Conv(32, 32, 3), Conv(32, 64, 3), nn.MaxPool2d(3, 2, 1)]
        layers += [Conv(64, 80, 1), Conv(80, 192, 3), nn.MaxPool2d(3, 2, 1)]
        layers += [InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64), InceptionB(288)]
        layers += [InceptionC(768, inner) for inner in (128, 160, 160, 192)]
        self.channels = 768
        if extraction_layer == "Mixed_7a":
            layers.append(InceptionD(768))
            self.channels = 1280
        layers += [nn.Conv2d(self.channels, self.channels, 1, bias=False), nn.BatchNorm2d(self.channels)]
        self.cnn = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.cnn(images)


class InceptionFine(nn.Module):
    """F_f: images [B, 3, H, W] -> descriptors [B, 288, ceil(H / 2), ceil(W / 2)]; receptive field 43 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.channels = 288
        layers: list[nn.Module] = [Conv(3, 32, 3, 2, 1), Conv(32, 32, 3), Conv(32, 64, 3), Conv(64, 80, 3)]
        layers += [Conv(80, 192, 3), InceptionA(192, 32), InceptionA(256, 64), InceptionA(288, 64)]
        layers += [nn.Conv2d(288, 288, 1, bias=False), nn.BatchNorm2d(288)]
        self.cnn = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.cnn(images)
