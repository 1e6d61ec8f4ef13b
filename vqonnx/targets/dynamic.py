"""Operators of dynamic quantization that execution providers have kernels for, with the types of weights."""

from collections.abc import Mapping
from types import MappingProxyType

from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.core.target import Target
from vqonnx.errors import OptionError

Kernels = Mapping[DynamicForm, tuple[str, ...]]
"""Types of weights by form, the fastest first where the user leaves it open or asks for one that has no kernel."""

_BOTH = ("int8", "uint8")
_PLAIN = {DynamicForm.LOOKUP: _BOTH, DynamicForm.DEQUANTIZED: _BOTH}

_KERNELS: Mapping[str, Kernels] = MappingProxyType(
    {
        # Run with ONNX Runtime 1.24 and 1.31. ConvInteger has a kernel for int8 weights too, which takes 5 times as
        # long as that for uint8.
        "CPUExecutionProvider": {
            **_PLAIN,
            DynamicForm.PRODUCT: _BOTH,
            DynamicForm.BATCH: _BOTH,
            DynamicForm.CONV: ("uint8",),
            DynamicForm.LSTM: _BOTH,
            DynamicForm.ATTENTION: _BOTH,
            DynamicForm.EMBEDDING: _BOTH,
        },
        # ONNX Runtime, docs/OperatorKernels.md; not run here. There is no DynamicQuantizeLSTM, and no
        # QEmbedLayerNormalization.
        "DmlExecutionProvider": {
            **_PLAIN,
            DynamicForm.PRODUCT: _BOTH,
            DynamicForm.BATCH: _BOTH,
            DynamicForm.CONV: _BOTH,
            DynamicForm.ATTENTION: _BOTH,
        },
    }
)


def dynamic_kernels(target: Target) -> Kernels:
    """What a target has for dynamic quantization.

    Raises:
        OptionError: It has nothing, as far as is known.
    """
    kernels = _KERNELS.get(target.provider)
    if kernels is None:
        raise OptionError(
            f"target {target.name!r} ({target.provider}) has no known kernels that quantize activations at run time. "
            "Quantize statically (quantize_static), or name another target.",
            option="target",
        )
    return kernels
