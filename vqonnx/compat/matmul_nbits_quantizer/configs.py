"""The algorithm configurations of ``MatMulNBitsQuantizer``, with onnxruntime's names, parameters and defaults.

Each says what of its parameters means something else here than there.
"""

from collections.abc import Iterable, Mapping

from vqonnx.calibration.readers import Reader
from vqonnx.quantizers.types import QuantFormat

Axes = Iterable[tuple[str, int]] | Mapping[str, int]
NodeSettings = Mapping[str, Mapping[str, object]]
"""By a node's name: ``bits``, ``group_size`` and ``scheme`` ("sym" or "asym")."""

_PRODUCTS = ("MatMul",)
_AXES = {"MatMul": 0, "Gather": 1}


class WeightOnlyQuantConfig:
    """What all configurations have. By itself it takes any of vqonnx's algorithms, by name, with its defaults.

    Attributes:
        algorithm: "DEFAULT", "RTN", "k_quant", "HQQ", "GPTQ", "AWQ", "nvidia_awq", or vqonnx's own, such as
            "scale_search".
        quant_format: QOperator: MatMulNBits and GatherBlockQuantized; QDQ: DequantizeLinear before the node. All
            algorithms have both here.
        op_types_to_quantize: Operators: "MatMul", "Gather" (tables), and here also "Gemm" and "Conv" (1x1).
        quant_axes: Axis of the blocks, by operator; see ``MatMulNBitsQuantizer``.
        customized_weight_config: What is different for some nodes, by name: ``bits``, ``group_size``, ``scheme``.
    """

    def __init__(
        self,
        algorithm: str,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        quant_axes: Axes | None = None,
        customized_weight_config: NodeSettings | None = None,
    ) -> None:
        self.algorithm = algorithm
        self.quant_format = QuantFormat.of(quant_format)
        self.op_types_to_quantize = set(op_types_to_quantize or _PRODUCTS)
        self.quant_axes = dict(quant_axes or _AXES)
        self.customized_weight_config = customized_weight_config


class DefaultWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """Round to nearest as onnxruntime does it: codes, scales and zero points are equal to the last bit.

    Attributes:
        block_size: Weights along K that share a scale: 16, 32, 64, 128 or 256.
        is_symmetric: Whether every zero point is the middle code.
        accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32; None leaves it out, with which
            onnxruntime's CPU has no fast kernel for 2 and 8 bits.
        bits: 2, 4 or 8, for both formats and for "Gather" too; onnxruntime leaves nodes float where it has no such.
        channel_wised_quantize: One scale an output channel; for QDQ only.
    """

    def __init__(
        self,
        block_size: int = 128,
        is_symmetric: bool = False,
        accuracy_level: int | None = None,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        quant_axes: Axes | None = None,
        bits: int = 4,
        channel_wised_quantize: bool = False,
    ) -> None:
        super().__init__("DEFAULT", quant_format, op_types_to_quantize, quant_axes)
        self.block_size = block_size
        self.is_symmetric = is_symmetric
        self.accuracy_level = accuracy_level
        self.bits = bits
        self.channel_wised_quantize = channel_wised_quantize


class RTNWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """Round to nearest as Neural Compressor does it; see ``compat.neural_compressor.onnxrt.rtn_quantize``.

    Its symmetric scale, 2 amax / (2^bits - 1), is worse by about 1 dB than that of ``DefaultWeightOnlyQuantConfig``.
    The quantizer's ``bits`` count; onnxruntime takes 4 whatever is asked for.

    Attributes:
        ratios: Factor on the ranges of a weight, by its initializer's name; what lies outside is clipped.
    """

    def __init__(
        self,
        ratios: Mapping[str, float] | None = None,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        customized_weight_config: NodeSettings | None = None,
    ) -> None:
        super().__init__("RTN", quant_format, op_types_to_quantize, None, customized_weight_config)
        self.ratios = dict(ratios or {})


class KQuantWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """Search each block's scale and zero point, errors of large weights counting more, as llama.cpp's k-quants.

    This is vqonnx's "scale_search" with ``favour=1``, whose zero points are whole numbers from the start: onnxruntime
    rounds them when the search is over. ``is_symmetric`` counts; onnxruntime always writes zero points.

    Attributes:
        ratios: None: the search chooses its ranges. onnxruntime takes some and ignores them.
    """

    def __init__(
        self,
        ratios: Mapping[str, float] | None = None,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        customized_weight_config: NodeSettings | None = None,
    ) -> None:
        super().__init__("k_quant", quant_format, op_types_to_quantize, None, customized_weight_config)
        self.ratios = dict(ratios or {})


class HQQWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """HQQ, without torch. Its zero points are whole numbers: onnxruntime's CPU takes 150 times as long with real ones.

    Attributes:
        block_size: Weights along K that share a scale.
        bits: 2, 4 or 8.
        axis: 1, for blocks along K. onnxruntime takes 0 and ignores it.
    """

    def __init__(
        self,
        block_size: int = 128,
        bits: int = 4,
        axis: int = 1,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        quant_axes: Axes | None = None,
    ) -> None:
        super().__init__("HQQ", quant_format, op_types_to_quantize, quant_axes)
        self.block_size = block_size
        self.bits = bits
        self.axis = axis


class GPTQWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """GPTQ, without torch. onnxruntime's never hands an error on, so that its result is that of round-to-nearest.

    Attributes:
        calibration_data_reader: Feeds: a CalibrationDataReader, a list or generator of feeds, or a folder of samples.
            A reader is read once and is at its end afterwards.
        percdamp: Share of the mean of the Hessian's diagonal that is added to it.
        block_size: Rows that onnxruntime solves before it updates the others. It has no effect on the result; the
            quantizer's ``block_size`` is the number of weights that share a scale.
        actorder: Solve the rows with the largest inputs first; grids are then those of the original order.
        mse: Search each block's grid for the least squared error (recommended), in place of its smallest and largest
            weight.
        perchannel: True: no scale is shared by several output channels. MatMulNBits has no other weights.
    """

    def __init__(
        self,
        calibration_data_reader: Reader | None = None,
        percdamp: float = 0.01,
        block_size: int = 128,
        actorder: bool = False,
        mse: bool = False,
        perchannel: bool = True,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
    ) -> None:
        super().__init__("GPTQ", quant_format, op_types_to_quantize)
        self.calibration_data_reader = calibration_data_reader
        self.percdamp = percdamp
        self.block_size = block_size
        self.actorder = actorder
        self.mse = mse
        self.perchannel = perchannel


class AWQWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """AWQ, as in onnx-neural-compressor. No weight is kept where it is worse than rounded to nearest.

    Attributes:
        calibration_data_reader: As of ``GPTQWeightOnlyQuantConfig``.
        enable_auto_scale: Scale the inputs of a weight down and its rows up where that helps.
        enable_mse_search: Clip the ranges of blocks where that helps.
    """

    def __init__(
        self,
        calibration_data_reader: Reader | None = None,
        enable_auto_scale: bool = True,
        enable_mse_search: bool = True,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
    ) -> None:
        super().__init__("AWQ", quant_format, op_types_to_quantize)
        self.calibration_data_reader = calibration_data_reader
        self.enable_auto_scale = enable_auto_scale
        self.enable_mse_search = enable_mse_search


class NVAWQWeightOnlyQuantConfig(WeightOnlyQuantConfig):
    """AWQ for DequantizeLinear with symmetric blocks, on samples of yours.

    onnxruntime loads a tokenizer and downloads texts for samples, with torch, transformers and datasets. Here samples
    are given, and ``tokenizer_dir``, ``dataset_name`` and ``cache_dir`` are refused.

    Attributes:
        calibration_method: "awq_lite" scales inputs and weights, "awq_clip" clips ranges, "awq_full" does both.
        calibration_data_reader: As of ``GPTQWeightOnlyQuantConfig``.
        is_symmetric: True.
    """

    def __init__(
        self,
        tokenizer_dir: str | None = None,
        dataset_name: str = "cnn",
        cache_dir: str = "./cache",
        calibration_method: str = "awq_lite",
        *,
        calibration_data_reader: Reader | None = None,
    ) -> None:
        super().__init__("nvidia_awq", QuantFormat.QDQ)
        self.tokenizer_dir = tokenizer_dir
        self.dataset_name = dataset_name
        self.cache_dir = cache_dir
        self.calibration_method = calibration_method
        self.calibration_data_reader = calibration_data_reader
        self.is_symmetric = True
