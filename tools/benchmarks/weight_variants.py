"""Weight-only quantization: each tool with its settings, as a function from file to file."""

import logging
from collections.abc import Callable
from typing import Any

from benchmarks.variants import Quantize, Task, Variant

SAMPLES = 32
"""Of 256 tokens each, for the algorithms that learn from samples."""

RUNTIME_ASYM = "onnxruntime asym, block 32"
_BITS = 4


def ours(**settings: Any) -> Callable[[], Quantize]:
    """``quantize_weight_only`` with these arguments."""

    def prepare() -> Quantize:
        from benchmarks.feeds import stream
        from vqonnx import quantize_weight_only

        learns = settings.get("algorithm") == "gptq"

        def quantize(task: Task) -> dict[str, Any]:
            calibration = stream(task.feeds, task.samples) if learns else None
            arguments = {"last_matmul": False} | settings
            report = quantize_weight_only(task.model, task.output, calibration=calibration, **arguments)
            return {"stages": dict(report.seconds)}

        return quantize

    return prepare


def _runtime(algorithm: str, **settings: Any) -> Callable[[], Quantize]:
    """ONNX Runtime's own quantizer; k_quant takes its block size by node only."""

    def prepare() -> Quantize:
        import onnxruntime.quantization.matmul_nbits_quantizer as peer

        peer.logger.setLevel(logging.ERROR)

        def quantize(task: Task) -> dict[str, Any]:
            config = getattr(peer, f"{algorithm}WeightOnlyQuantConfig")(**settings)
            quantizer = peer.MatMulNBitsQuantizer(
                str(task.model), _BITS, 32, accuracy_level=4, nodes_to_exclude=task.exclude, algo_config=config
            )
            quantizer.process()
            quantizer.model.save_model_to_file(str(task.output), use_external_data_format=True)
            return {}

        return quantize

    return prepare


def _onnxsim() -> Quantize:
    """It has neither options nor exclusions: the head is packed too."""
    import onnx
    import onnxsim

    def quantize(task: Task) -> dict[str, Any]:
        model = onnxsim.quantize_weight_only_matmul_nbits(onnx.load(task.model))
        onnx.save(model, task.output, save_as_external_data=True, location=f"{task.output.name}.data")
        return {}

    return quantize


def _quark() -> Quantize:
    """It knows no exclusions for this form: the head is packed too."""
    from quark.onnx import ModelQuantizer
    from quark.onnx.quantization.config import Config, QuantizationConfig

    def quantize(task: Task) -> dict[str, Any]:
        from benchmarks.peer import PeerReader

        weights = {"GroupSize": 32, "Symmetric": False, "Bits": _BITS, "AccuracyLevel": 4}
        config = QuantizationConfig(
            use_external_data_format=True,
            extra_options={"UseMatMulNBits": True, "MatMulNBitsParams": weights},
        )
        quantizer = ModelQuantizer(Config(global_quant_config=config))
        quantizer.quantize_model(str(task.model), str(task.output), PeerReader(task.feeds, 1))
        return {}

    return quantize


_GATHER = {"op_types_to_quantize": ("MatMul", "Gather"), "layers": {"op:Gather": {"bits": 8}}, "last_matmul": True}

WEIGHT_VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("vqonnx rtn asym, block 32", ours()),
        Variant("vqonnx rtn sym, block 32", ours(symmetric=True)),
        Variant("vqonnx scale_search asym, block 32", ours(algorithm="scale_search")),
        Variant("vqonnx gptq asym, block 32", ours(algorithm="gptq")),
        Variant("vqonnx gptq asym, block 128", ours(algorithm="gptq", block_size=128)),
        Variant("vqonnx gptq asym, block 32, with table (8 bits) and head", ours(algorithm="gptq", **_GATHER)),
        Variant(RUNTIME_ASYM, _runtime("Default", block_size=32, is_symmetric=False, accuracy_level=4)),
        Variant("onnxruntime sym, block 32", _runtime("Default", block_size=32, is_symmetric=True, accuracy_level=4)),
        Variant("onnxruntime k_quant, block 32", _runtime("KQuant")),
        Variant("onnxsim MatMulNBits sym, block 32, with head", _onnxsim),
        Variant("Quark MatMulNBits asym, block 32, with head", _quark),
    )
}
