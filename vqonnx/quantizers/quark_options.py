"""``extra_options`` of AMD Quark without a switch here: what is done anyway, and where else the rest is asked for.

Programs written for Quark pass such keys with the values that stand here; any other value is an error with the way out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from vqonnx.errors import OptionError


@dataclass(frozen=True, slots=True)
class _Fixed:
    """A key without a switch.

    Attributes:
        fact: What vqonnx does, or offers in its place.
        taken: The values that change nothing; None: all.
    """

    fact: str
    taken: tuple[object, ...] | None = ()


def _always(fact: str, *keys: str) -> dict[str, _Fixed]:
    return dict.fromkeys(keys, _Fixed(fact, (True, None)))


def _never(fact: str, *keys: str) -> dict[str, _Fixed]:
    return dict.fromkeys(keys, _Fixed(fact, (False, None, [], {}, ())))


def _whatever(fact: str, *keys: str) -> dict[str, _Fixed]:
    return dict.fromkeys(keys, _Fixed(fact, None))


def _elsewhere(fact: str, *keys: str) -> dict[str, _Fixed]:
    return dict.fromkeys(keys, _Fixed(fact, (None,)))


_TRAINING = "Nothing is trained; positions are searched and biases corrected by each layer's output instead"
_MODEL = MappingProxyType(
    {
        **_always(
            "Preparing folds, fuses and simplifies whatever is exact; only target='onnxruntime' takes graphs as given",
            *("ConvertReduceMeanToGlobalAvgPool", "FoldBatchNorm", "OptimizeModel", "SimplifyModel"),
        ),
        **_always("Initializers are never inputs of what is written", "RemoveInputInit"),
        **_always("A Relu or Clip goes where a range repeats it; QDQKeepRemovableActivations keeps it", "FoldRelu"),
        **_never("Preparing cannot be left out; target='onnxruntime' takes graphs as given", "SkipPreprocess"),
        **_never("Preparing has no options", "SimplifyModelOptions"),
        **_never("InstanceNormalization stays ONNX's own", "ConvertInstanceNormToDPUVersion"),
        **_never("Recipes are not read; choose a preset and a target", "ShapeShifterYaml", "PreprocessYAML"),
        **_whatever("Types and shapes of inner values are always written", "FillAllValueInfo"),
        **_elsewhere("Name operators in op_types_to_quantize", "OpTypesToQuantize", "ExtraOpTypesToQuantize"),
        **_elsewhere("Name nodes in nodes_to_quantize", "NodesToQuantize"),
        **_elsewhere("Name what lies beyond in nodes_to_exclude", "InputNodes", "OutputNodes"),
        **_elsewhere("The target decides: target='vitis-npu-cnn', 'vitis-npu-transformer' or 'vitis'", "EnableNPUCnn"),
        **_never(
            "Outputs stay float by operator (OpTypesToExcludeOutputQuantization), or with the node (nodes_to_exclude)",
            "NodesToExcludeOutputQuantization",
        ),
        **_never("These targets quantize every operator that they list already", "QuantizeAllOpTypes"),
    }
)
_NUMBERS = MappingProxyType(
    {
        **_always("Biases are made after all scales are known", "AdjustBiasScale"),
        **_always(
            "Weight scales grow where a bias would not fit; QDQDisableWeightAdjustForInt32Bias: True stops it",
            "AdjustWeightScaleForInt32Bias",
        ),
        **_always("bfloat16 is written as pairs of Cast, which ONNX Runtime runs", "BF16QDQToCast"),
        **_always("Blocks lie along the axis that a product adds up over", "RefineBlockAxis"),
        **_never("float16 and bfloat16 have no scales; float8 always has one", "ActivationScaled", "WeightScaled"),
        **_never("VAIML's own form is not written", "EnableVaimlBF16"),
        **_never("Give the operators one activation_type in LayerTypes", "AlignEltwiseQuantType"),
        **_never("A form of another type is made where LayerTypes asks for one", "EnableDualQuantNodePairs"),
        **_never("Whole pairs can be given to each reader: DedicatedQDQPair", "DedicateDQNode"),
        **_never("Pairs between other operators stay", "RemoveQDQMulAdd", "RemoveFusedQDQ", "RemoveQDQBetweenOps"),
        **_never("float16 models are quantized as they come; ConvertFP16ToFP32 makes them float32", "QuantizeFP16"),
        **_never("Scales have the tensors' type; ConvertFP16ToFP32 makes both float32", "UseFP32Scale"),
        **_elsewhere("calibrate_method=PowerOfTwoMethod.MinMSE makes scales powers of two", "UsePowerOf2Scale"),
        **_elsewhere("Name a type instead (QuantType.QBFP16, QMX9, QMXFP8_E4M3 ...)", "BFPAttributes", "MXAttributes"),
        **_elsewhere("Pass quantized_tensor_type: types by tensor", "MixedPrecisionTensor", "SpecificTensorPrecision"),
        **_elsewhere("Give the nodes types in LayerTypes", "NodesWithMixedPrecision"),
    }
)
_CALIBRATION = MappingProxyType(
    {
        **_whatever("Memory is bounded either way", "CalibOptimizeMem", "CalibOptimizeDisk"),
        **_whatever("All cores work; an executor spreads samples", "CalibWorkerNum"),
        **_always("Percentiles are those of a histogram", "LWPUseHistogram"),
        **_elsewhere("Histograms have a fixed memory and bins of their own", "NumBins", "NumQuantizedBins", "Scenario"),
        **_elsewhere("Weights have exact candidates, whatever the mode", "MinMSEModeFloatScale"),
        **_elsewhere("Pass as many samples as are to be used", "CalibDataSize"),
        **_never(
            "Ranges of random data mean nothing. Pass samples like the real input",
            *("UseRandomData", "RandomDataReaderInputShape", "RandomDataReaderInputDataRange"),
        ),
        **_elsewhere("Pass calibration_cache_path", "SaveAndRestore", "TensorsRangeFile"),
        **_never("What only moves data has the range of its input already", "CalibPassthroughOpTypes"),
        **_never("There are no figures of histograms; the report has the SQNR of outputs", "SaveTensorHistFig"),
        **_elsewhere("Pass calibration_providers", "ExecutionProviders"),
        **_elsewhere("Set TMPDIR", "TmpDir"),
    }
)
_ALGORITHMS = MappingProxyType(
    {
        **_whatever("Rules are met by a search that ends by itself", "MaxLoopNum"),
        **_elsewhere(
            "Channels are balanced by their largest weights until no factor moves by 0.1 %",
            "CLETotalLayerDiffThreshold",
        ),
        "CLEBalanceMethod": _Fixed("Channels are balanced by their largest weights", ("max", None)),
        **_elsewhere("Pass bias_correction ('auto', 'on', 'fast', 'off')", "BiasCorrection"),
        **_elsewhere("Set SmoothQuant: True and SmoothQuantAlpha", "SmoothAlpha"),
        **_never(_TRAINING, "FastFinetune"),
        **_never(
            "Weights alone are quantized by quantize_weight_only (algorithm='gptq', 'hqq', 'awq' ...)",
            *("UseGPTQ", "GPTQParams", "UseMatMulNBits", "MatMulNBitsParams"),
        ),
        **_never("There are no rotations", "UseRandomHad", "RConfigPath", "RMatrixDim"),
        **_never("guard=True leaves float what collapses; LayerTypes gives nodes types", "AutoMixprecision"),
        **_never("Choose a preset", "QuantizationPreference"),
        **_never("The result is compared with the float model on held-back samples anyway", "EvalMetrics"),
        **_elsewhere("Measure what else counts on the written file", "EvalDataReader"),
        **_elsewhere("vqonnx.ops.register gives sessions the operators", "UserCustomOpLibPath"),
        **_never("Files are written as they are", "CryptoMode", "EncryptionAlgorithm"),
        **_whatever("The report is returned, and nothing logged", "PrintSummary", "IgnoreWarnings", "DebugMode"),
    }
)
_FIXED = MappingProxyType({**_MODEL, **_NUMBERS, **_CALIBRATION, **_ALGORITHMS})
FIXED_OPTIONS = frozenset(_FIXED)
"""The keys of this module."""


def check_fixed(given: Mapping[str, object]) -> None:
    """Let the keys of this module pass whose value is what is done anyway.

    Raises:
        OptionError: Another value is asked for; the text has the way out.
    """
    for key in FIXED_OPTIONS.intersection(given):
        fixed, value = _FIXED[key], given[key]
        if fixed.taken is not None and not any(type(value) is type(one) and value == one for one in fixed.taken):
            raise OptionError(
                f"extra_options: {key!r} cannot be {value!r}. {fixed.fact}"
                f"{'; leave the option out' if fixed.taken else ''}.",
                option=key,
            )
