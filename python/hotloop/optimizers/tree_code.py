"""The dynamic tree code in torch: what `shared/training/core/tree_code.mojo` computes.

Dettmers et al., 2021, "8-bit Optimizers via Block-wise Quantization" (arXiv:2110.02861).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from hotloop.layout import BLOCK

__all__ = ["TreeCode", "from_blocks", "to_blocks"]

_ENTRIES = 16
#: Added to what is encoded, so that its exponent has 26 values at most.
_LEAST = 2.0**-26


class TreeCode:
    """Codes of 8 bits for float32 numbers, relative to the largest size in their block.

    A magnitude k has 7 bits beside a sign, or 8 without one. With e the position of its
    first one bit, and `bits` of them, it stands for the interval from

        10^(e - bits + 1) (0.1 + 0.9 (k - 2^e) / 2^e)

    to the same of k + 1, and decodes to its middle; 0 decodes to 0. All values are divided
    by the largest one, so that 1 decodes to 1. The error is thus at most half an interval,
    0.45 10^(e - bits + 1) / 2^e of the largest size in the block over the largest middle,
    1 - 0.9 / 2^bits; within the decade of that size it is 0.4 % of it without a sign.

    A code with a sign is 128 + k or, for negative numbers, 127 - k. A code without one is k,
    and numbers below 1e-8 become k = 1, 0 among them: the root of a second moment is divided
    by, and one that vanished before its first moment would make the step arbitrarily long
    (the zero-point problem of Li et al., 2023, arXiv:2309.01507).

    Each operation rounds to float32 once, as in the kernels, so both give equal codes.

    Args:
        signed: Whether numbers may be negative.
    """

    def __init__(self, *, signed: bool) -> None:
        self.signed = signed
        self.bits = bits = 7 if signed else 8
        self.largest = 1 - 0.9 / 2**bits
        decades = [_ten_to(e - bits + 1) / self.largest for e in range(bits)]
        slopes = _float32([0.9 * decade / 2**e for e, decade in enumerate(decades)])
        bases = _float32([-0.8 * decade for decade in decades])
        magnitudes = torch.arange(1, 2**bits)
        e = magnitudes.double().log2().floor().long()
        middles = _fma(magnitudes + 0.5, slopes[e], bases[e])
        values = torch.cat([torch.zeros(1), middles])
        #: What each code decodes to.
        self.values = torch.cat([-values.flip(0), values]) if signed else values
        #: The code of 0, the least one if there is no sign.
        self.zero = 128 if signed else 1
        chosen = [self._decade(index) for index in range(_ENTRIES)]
        inverses = [_ten_to(bits - 1 - e) * self.largest / 0.9 for e in chosen]
        self._slopes = _float32(inverses)
        self._powers = _float32([2.0**e for e in chosen])

    def _decade(self, index: int) -> int:
        # Of the smallest float32 up to 1 whose bits, shifted by 24, end in the index.
        smallest = self.largest / 2 ** (2 * (_ENTRIES - index) - 1)
        borders = [_ten_to(e - self.bits + 1) for e in range(self.bits - 1)]
        return sum(smallest >= border for border in borders)

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        """Decode blocks.

        Args:
            codes: uint8, (blocks, 256).
            scales: float32, (blocks,): the largest size in each block.

        Returns:
            float32, (blocks, 256); NaN where the scale is.
        """
        return self.values.to(codes.device)[codes.long()] * scales[:, None]

    def encode(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode blocks.

        Args:
            values: float32, (blocks, 256); without a sign, none of them negative.

        Returns:
            The codes and the scales, as `decode` takes them. A block with a value that is
            not finite has the scale NaN and codes of 0.
        """
        sizes = values.abs()
        scales = sizes.amax(1)
        is_finite = scales.isfinite()
        scales = torch.where(is_finite, scales, torch.nan)
        # Of zeros, and of what is too small to have a finite inverse.
        inverses = (1 / scales).clamp(max=torch.finfo(torch.float32).max)
        scaled = _fma(sizes, inverses[:, None], torch.tensor(_LEAST))
        index = (scaled.view(torch.int32) >> 24) & (_ENTRIES - 1)
        slopes, powers = (table.to(values.device)[index] for table in (self._slopes, self._powers))
        # In decade e the magnitude is 2^e u, in the next one 2^e (0.2 u + 1.6), and the
        # smaller of the two in both.
        u = _fma(scaled, slopes, torch.tensor(8 / 9))
        real = torch.minimum(u, _fma(u, torch.tensor(0.2), torch.tensor(1.6)))
        if self.signed:
            real = _fma(torch.copysign(real, values), powers, torch.tensor(128.0))
        else:
            real = real * powers
        return torch.where(is_finite[:, None], real, 0).to(torch.uint8), scales


def to_blocks(tensor: Tensor, padding: int = 0) -> Tensor:
    """Return a tensor's elements as (blocks, 256), the last block padded."""
    return pad(tensor.reshape(-1), (0, -tensor.numel() % BLOCK), value=padding).view(-1, BLOCK)


def from_blocks(blocks: Tensor, tensor: Tensor) -> None:
    """Write what `to_blocks` would have read back to a tensor, rounded to its dtype."""
    tensor.copy_(blocks.reshape(-1)[: tensor.numel()].view_as(tensor))


def _ten_to(power: int) -> float:
    return 10.0**power if power >= 0 else 1 / 10.0**-power


def _float32(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def _fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    # The products of float32 numbers are exact in float64, and so are these sums of them
    # but for a last bit far below float32's.
    return (a.double() * b.double() + c.double()).float()
