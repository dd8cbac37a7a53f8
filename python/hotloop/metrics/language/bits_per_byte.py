"""The bits that a language model needs for a byte of text."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hotloop.metrics.language.token_metric import LikelihoodMetric

__all__ = ["BitsPerByte"]


class BitsPerByte(LikelihoodMetric):
    """The bits that a language model needs for a byte of text, in [0, inf).

        sum(w nll) / ln(2) / sum(w bytes)

    of tokens with weights w, where nll is `-log softmax(logits)[target]`, in nats, and bytes the
    length of the token's text. Unlike the perplexity it compares models with different
    vocabularies. Tokens without text, such as the one for the end, do not count.

    Args:
        token_bytes: The number of bytes of each token of the vocabulary, shape (V,); None if each
            has one, as in a model of bytes.
        ignore_index: The target of positions that do not count; None for none.

    Raises:
        ValueError: If `token_bytes` has another shape or a negative number.
    """

    higher_is_better = False
    unit = "bit/B"

    def __init__(
        self, token_bytes: Tensor | Sequence[int] | None = None, ignore_index: int | None = -100
    ) -> None:
        super().__init__(ignore_index)
        if token_bytes is not None:
            lengths = torch.as_tensor(token_bytes).detach().to(torch.int64)
            if lengths.ndim != 1 or bool((lengths < 0).any()):
                raise ValueError(
                    "token_bytes must have shape (V,) and no negative number, got shape "
                    f"{tuple(lengths.shape)}"
                )
            self._units = lengths.cpu().clone(memory_format=torch.contiguous_format)

    def compute(self) -> float:
        """Return the bits for a byte.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        return self._ratio(0) / math.log(2)

    def _options(self) -> dict[str, Any]:
        lengths = self._units
        name = None if lengths is None else zlib.crc32(lengths.numpy().tobytes())
        return {**super()._options(), "token_bytes": name}
