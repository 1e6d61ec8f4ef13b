"""Round to nearest: the range of each block alone decides, no data are needed.

The scale and the zero point of a block come from its smallest and largest weight, and every weight takes the nearest
code. Options are those of Neural Compressor's ``rtn_quantize`` that a packed form can hold. Code books are rounded to
their nearest value.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, one_by_one, register
from vqonnx.algorithms.clip_search import ClipSearchConfig, layer_ratio
from vqonnx.algorithms.slabs import book_by_slabs
from vqonnx.core.blocks import U8, BlockSpec, FloatArray, QuantizedBlocks
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.codebook import code_book, round_to_book
from vqonnx.kernels.blocks.packing import unpack_zero_points
from vqonnx.kernels.blocks.rounding import quantize_blocks, round_blocks

F32 = npt.NDArray[np.float32]

_SCALE_LEVELS = 127
_LAYER_RATIOS = ClipSearchConfig(smallest=0.805, ratios=40, per_layer=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class RtnConfig:
    """Options of round-to-nearest.

    Attributes:
        quantile: Factor on the range of every block; what lies outside is clipped.
        mse_search: Use the factor from 1 down to 0.805 that leaves the least squared error in the whole weight, in
            place of ``quantile``.
        full_range: Symmetric only: let the element of largest magnitude have the lowest code, which has no mirror
            image (scale amax / 8 for 4 bits). Otherwise that code is left out (amax / 7), as Neural Compressor does.
        double_quant: Round the scales too, symmetrically to 8 bits, in groups over the whole weight, so that a packed
            form can be stored in fewer bits. None of them becomes 0.
        double_quant_group_size: Scales that are rounded together.
        group_dim: 1, for blocks along the inputs. Blocks along the outputs, Neural Compressor's 0, have no packed form.
    """

    quantile: float = 1.0
    mse_search: bool = False
    full_range: bool = True
    double_quant: bool = False
    double_quant_group_size: int = 256
    group_dim: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise OptionError(f"quantile is a share and must lie in (0, 1], got {self.quantile}", option="quantile")
        if self.double_quant_group_size < 1:
            raise OptionError(
                f"double_quant_group_size must be at least 1, got {self.double_quant_group_size}",
                option="double_quant_group_size",
            )
        if self.group_dim != 1:
            raise OptionError(
                f"group_dim must be 1, got {self.group_dim}: MatMulNBits and block-wise DequantizeLinear hold blocks "
                "along the inputs of a layer; compat.neural_compressor.utility.quant_tensor computes others",
                option="group_dim",
            )


DEFAULT = RtnConfig()


def round_to_nearest(weight: FloatArray, spec: BlockSpec, config: RtnConfig = DEFAULT) -> QuantizedBlocks:
    """Quantize a weight block by block.

    Args:
        weight: [K, N], float32, float16 or bfloat16; the transpose of an [N, K] array is read without a copy.
        spec: Bits, block size, symmetry.
        config: Options.

    Raises:
        QuantRangeError: The weight holds NaN or infinite values.
    """
    ratio = layer_ratio(weight, spec, None, _LAYER_RATIOS) if config.mse_search else config.quantile
    first = round_blocks(weight, spec, ratios=ratio)
    if not config.double_quant and (config.full_range or not spec.symmetric):
        return first
    scales, zero_points = first.scales.astype(np.float32), _stored_zero_points(first)
    if spec.symmetric and not config.full_range:
        middle = 1 << (spec.bits - 1)
        scales = np.abs(scales) * np.float32(middle / (middle - 1))
    if config.double_quant:
        smallest = np.float32(2.0**-24 if weight.dtype == np.float16 else 2.0**-126)
        scales = _rounded(scales, config.double_quant_group_size, smallest)
    return quantize_blocks(weight, scales, zero_points, spec)


def _stored_zero_points(blocks: QuantizedBlocks) -> U8 | None:
    return None if blocks.symmetric else unpack_zero_points(blocks)


def _rounded(scales: F32, group_size: int, smallest: np.float32) -> F32:
    """The scales as whole multiples, from 1 to 127, of a common step, at least ``smallest``; their signs are kept."""
    flat = np.abs(scales).reshape(-1)
    groups = np.pad(flat, (0, -flat.size % group_size)).reshape(-1, group_size)
    steps = groups.max(axis=1, keepdims=True) / np.float32(_SCALE_LEVELS)
    rounded: F32 = np.maximum(np.rint(groups / steps), np.float32(1)) * steps
    signed: F32 = np.copysign(np.maximum(rounded.reshape(-1)[: flat.size], smallest).reshape(scales.shape), scales)
    return signed


def _refuse_book_options(config: RtnConfig) -> None:
    for name in ("quantile", "mse_search", "full_range", "double_quant"):
        if getattr(config, name) != getattr(DEFAULT, name):
            raise OptionError(f"option {name!r} of 'rtn' has no meaning for a code book; leave it out", option=name)


def _solve(problem: LayerProblem, config: RtnConfig) -> LayerSolution:
    weight, spec = problem.weight, problem.spec
    if not isinstance(spec, CodebookSpec):
        return LayerSolution(packed=round_to_nearest(weight, spec, config))
    _refuse_book_options(config)
    book, size = code_book(spec.book), spec.block_size
    return LayerSolution(packed=book_by_slabs(weight, lambda slab: round_to_book(slab, book, size), size))


register(
    Algorithm(
        name="rtn",
        aliases=("default", "round_to_nearest"),
        summary="round to nearest over the whole range of each block; the fastest, and what all others are measured by",
        needs=Needs.NOTHING,
        options=RtnConfig,
        solve=one_by_one(_solve),
        refusal=lambda spec: None,
    )
)
