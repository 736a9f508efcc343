"""Small networks with what is hard to cut: loaded by the tests as a user's own models."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class UNet(nn.Module):
    """Transposed convolutions and skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True))
        self.third = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True))
        self.up2 = nn.ConvTranspose2d(16, 16, 2, 2)
        self.up1 = nn.ConvTranspose2d(32, 8, 3, 2, padding=1, output_padding=1)
        self.head = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one = self.first(x)
        two = self.second(functional.max_pool2d(one, 2))
        three = self.third(functional.max_pool2d(two, 2))
        up = torch.cat([self.up2(three), two], 1)
        up = torch.cat([self.up1(up), one], 1)
        return torch.tanh(self.head(up))


class Shuffle(nn.Module):
    """Chunk, branches, channel shuffle, split into uneven parts, several results of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, 2)
        self.branch = nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.narrow = nn.Conv2d(4, 4, 1)
        self.wide = nn.Conv2d(8, 8, (3, 1), padding="same")

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        left, right = self.stem(x).chunk(2, 1)
        both = torch.cat([left, functional.relu(self.branch(right))], 1)
        n, c, h, w = both.shape
        mixed = both.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        thin, thick = torch.split_with_sizes(mixed, [4, 8], 1)
        best, where = self.wide(thick).max(dim=1)
        return {"thin": self.narrow(thin), "best": best, "where": where}


class InPlace(nn.Module):
    """Residual sums and activations in place, the sum read later under the first name."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1)
        self.two = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        y = self.one(x)
        y += x
        functional.relu_(y)
        z = self.two(y)
        z.add_(y).mul_(0.5)
        return torch.add(z, y)


class Aliased(nn.Module):
    """Writes through views: half of a tensor, a corner of the other half; a mask made in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        left, right = x.chunk(2, 1)
        left.add_(1)
        right[:, :2] = 0.25
        mask = torch.zeros(x.shape[-2:])
        mask[2:] = 1
        mask = mask.to(torch.float64).to(x.dtype)
        return torch.sigmoid(self.last(functional.leaky_relu(x * mask)))


class Attention(nn.Module):
    """A class token, positions, qkv by unbind, heads by permute: strided values everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(torch.zeros(1, 17, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q * 0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return torch.add(x, self.out(mixed.transpose(1, 2).reshape(n, length, width)))


class Photo(nn.Module):
    """Takes the uint8 photo itself and normalises in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.stem(x.to(torch.float32) * 0.01))


class Undecided(nn.Module):
    """Control flow that depends on data: cannot be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Branching()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.mul(self.inner(x), 2)


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Counting(nn.Module):
    """Changes its own buffer with every frame."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(1)
        return x * self.seen


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


class Shifting(nn.Module):
    """Changes its own weights through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shift = self.weight.view(1, 3, 1, 1)
        shift.add_(1)
        return x + shift


class Dropping(nn.Module):
    """Drops out in eval mode, too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.dropout(x)


def failing() -> nn.Module:
    raise LookupError("no such thing")


def nothing() -> None:
    return None
