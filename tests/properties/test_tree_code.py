"""The dynamic tree code against its definition in exact numbers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.optimizers import AdamW8bit, Lion8bit
from hotloop.optimizers.tree_code import TreeCode, from_blocks, to_blocks

CODES = [TreeCode(signed=True), TreeCode(signed=False)]
both = pytest.mark.parametrize("code", CODES, ids=["signed", "unsigned"])
SIZES = st.one_of(st.floats(0, 1, width=32), st.floats(-9, 0).map(lambda power: 10.0**power))


def interval(code: TreeCode, magnitude: int) -> tuple[Fraction, Fraction]:
    """Return the ends of a magnitude's interval, for a largest size of 1."""
    largest = 1 - Fraction(9, 10) / 2**code.bits
    e = magnitude.bit_length() - 1
    decade = Fraction(10) ** (e - code.bits + 1) / largest
    low, high = (
        decade * (Fraction(1, 10) + Fraction(9, 10) * Fraction(k - 2**e, 2**e))
        for k in (magnitude, magnitude + 1)
    )
    return low, high


def magnitude_of(code: TreeCode, number: int) -> int:
    if not code.signed:
        return number
    return number - 128 if number >= 128 else 127 - number


def block_of(values: list[float]) -> Tensor:
    """Return blocks whose largest size is 1."""
    rest = values + [0.0] * (-len(values) % 255)
    return torch.cat([torch.ones(len(rest) // 255, 1), torch.tensor(rest).view(-1, 255)], 1)


def edges(code: TreeCode) -> list[float]:
    """Return the float32 numbers around every interval's end."""
    ends = torch.tensor([float(interval(code, k)[0]) for k in range(1, 2**code.bits)])
    around = [ends]
    for direction in (0.0, 2.0):
        step = ends
        for _ in range(3):
            step = torch.nextafter(step, torch.tensor(direction))
            around.append(step)
    return torch.cat(around).tolist()


@both
def test_values_are_the_middles(code: TreeCode) -> None:
    for number, value in enumerate(code.values.tolist()):
        k = magnitude_of(code, number)
        middle = sum(interval(code, k)) / 2 if k else Fraction(0)
        sign = -1 if code.signed and number < 128 else 1
        # Two constants and the sum round, and the sum cancels all but a tenth.
        assert value == pytest.approx(float(sign * middle), rel=2e-6, abs=0)
    assert code.values[-1] == 1
    assert (code.values.diff() >= 0).all()


@both
@given(values=st.lists(SIZES, min_size=1, max_size=300), data=st.data())
def test_a_number_is_in_the_interval_of_its_code(
    code: TreeCode, values: list[float], data: st.DataObject
) -> None:
    if code.signed:
        values = [value * data.draw(st.sampled_from([1, -1])) for value in values]
    blocks = block_of(values)
    codes, scales = code.encode(blocks)
    decoded = code.decode(codes, scales)
    for value, number, back in zip(
        blocks.ravel().tolist(), codes.ravel().tolist(), decoded.ravel().tolist()
    ):
        k = magnitude_of(code, number)
        least, high = interval(code, 1)
        if k == 0:
            assert code.signed
            assert abs(value) < least
            assert back == 0
            continue
        low, high = interval(code, k)
        if k == 1 and not code.signed:
            low = Fraction(0)
        # 2^-26 is added before, and a float32 rounds at either end.
        slack = 2.0**-25 + 4 * 2.0**-24 * abs(value)
        assert low - slack <= abs(value) <= high + slack
        assert abs(abs(value) - abs(back)) <= (high - low) / 2 * (2 if low == 0 else 1) + slack
        assert value == 0 or (back < 0) == (value < 0)


@both
def test_what_was_decoded_is_encoded_as_it_was(code: TreeCode) -> None:
    codes = torch.arange(256, dtype=torch.uint8).flip(0)[None]
    scales = torch.tensor([0.37])
    again, same = code.encode(code.decode(codes, scales))
    assert torch.equal(same, scales)
    if code.signed:
        # Both codes of 0 decode to a zero of their sign.
        assert torch.equal(again, codes)
    else:
        assert torch.equal(again, codes.clamp(min=1))


@both
@pytest.mark.parametrize("scale", [1e-45, 1e-41, 1.2e-38, 3.4e38])
def test_the_smallest_and_the_largest_scales(code: TreeCode, scale: float) -> None:
    values = torch.tensor([scale, scale / 2, 0.0]).repeat(1, 86)[:, :256]
    codes, scales = code.encode(values)
    decoded = code.decode(codes, scales)
    assert decoded.isfinite().all()
    assert (decoded - values).abs().max() <= scale  # No code but 1 is precise there.
    if scale > 1e-38:
        assert (decoded - values).abs().max() <= 0.01 * scale


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_block_with_a_number_that_is_not_finite_is_nan(code: TreeCode, value: float) -> None:
    blocks = torch.ones(2, 256)
    blocks[1, 7] = value
    codes, scales = code.encode(blocks)
    decoded = code.decode(codes, scales)
    assert (decoded[0] == 1).all()
    assert decoded[1].isnan().all()


@given(length=st.integers(0, 600))
def test_blocks_hold_every_element_once(length: int) -> None:
    tensor = torch.arange(length, dtype=torch.float32)
    blocks = to_blocks(tensor)
    assert blocks.shape == (-(-length // 256), 256)
    back = torch.full((length,), -1.0)
    from_blocks(blocks, back)
    assert torch.equal(back, tensor)


def encoded(optimizer: type, state: str, values: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the codes and scales that a first step with gradients `values` leaves."""
    # Betas of 0 keep nothing but the gradient.
    param = torch.zeros(values.numel(), requires_grad=True)
    param.grad = values.ravel()
    made = optimizer([param], betas=(0.0, 0.0), **options)
    made.step()
    return made.state[param][state].view(-1, 256), made.state[param][f"{state}_absmax"]


def many(blocks: Tensor) -> Tensor:
    """Return enough blocks for 8-bit state, and the end of a short one."""
    return blocks.repeat(-(-16 // len(blocks)) + 1, 1)


def test_kernels_encode_as_torch_does() -> None:
    signed, unsigned = CODES
    values = edges(signed)
    blocks = many(block_of(values + [-value for value in values]))
    codes, scales = encoded(Lion8bit, "exp_avg", blocks)
    expected, expected_scales = signed.encode(blocks)
    assert torch.equal(codes, expected)
    assert torch.equal(scales, expected_scales)
    roots = many(block_of(edges(unsigned))).sqrt()
    codes, scales = encoded(AdamW8bit, "exp_avg_sq", roots)
    expected, expected_scales = unsigned.encode(roots * roots)
    assert torch.equal(codes, expected)
    assert torch.equal(scales, expected_scales)
