"""MobileNetV2 and EfficientNet-Lite0 as ONNX graphs from their PyTorch weights.

Both are a stem, blocks of expand -> depthwise -> project with a residual where shapes allow, a head, a mean and a
linear layer; they differ in names, strides, padding and epsilon. BatchNormalization is left for others to fold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from models.build import Array, build


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Conv -> BatchNormalization [-> Clip(0, 6)]; weights by their names in the file."""

    kernel: str
    norm: str
    stride: int = 1
    clip: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What distinguishes one of these networks."""

    name: str
    stem: Layer
    blocks: tuple[tuple[Layer, ...], ...]
    head: Layer
    classifier: str
    epsilon: float
    same_padding: bool


def mobilenet_v2(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """MobileNetV2 1.0 (Sandler et al. 2018) with torchvision's names; input [N, 3, 224, 224]."""
    blocks = tuple(_mobilenet_block(i, 2 if i in (2, 4, 7, 14) else 1) for i in range(1, 18))
    return _export(
        Architecture(
            name="mobilenet_v2",
            stem=Layer(kernel="features.0.0", norm="features.0.1", stride=2),
            blocks=blocks,
            head=Layer(kernel="features.18.0", norm="features.18.1"),
            classifier="classifier.1",
            epsilon=1e-5,
            same_padding=False,
        ),
        weights,
    )


def efficientnet_lite0(weights: Mapping[str, Array]) -> onnx.ModelProto:
    """EfficientNet-Lite0 with TensorFlow's "same" padding; input [N, 3, 224, 224]."""
    blocks = tuple(_efficientnet_block(i, 2 if i in (1, 3, 5, 11) else 1) for i in range(16))
    return _export(
        Architecture(
            name="efficientnet_lite0",
            stem=Layer(kernel="_conv_stem", norm="_bn0", stride=2),
            blocks=blocks,
            head=Layer(kernel="_conv_head", norm="_bn1"),
            classifier="_fc",
            epsilon=1e-3,
            same_padding=True,
        ),
        weights,
    )


def _mobilenet_block(i: int, stride: int) -> tuple[Layer, ...]:
    stages = 1 if i == 1 else 2  # the first block does not expand
    convs = [
        Layer(
            kernel=f"features.{i}.conv.{k}.0", norm=f"features.{i}.conv.{k}.1", stride=stride if k == stages - 1 else 1
        )
        for k in range(stages)
    ]
    last = Layer(kernel=f"features.{i}.conv.{stages}", norm=f"features.{i}.conv.{stages + 1}", clip=False)
    return (*convs, last)


def _efficientnet_block(i: int, stride: int) -> tuple[Layer, ...]:
    name = f"_blocks.{i}"
    expand = () if i == 0 else (Layer(kernel=f"{name}._expand_conv", norm=f"{name}._bn0"),)
    depthwise = Layer(kernel=f"{name}._depthwise_conv", norm=f"{name}._bn1", stride=stride)
    return (*expand, depthwise, Layer(kernel=f"{name}._project_conv", norm=f"{name}._bn2", clip=False))


def _export(architecture: Architecture, weights: Mapping[str, Array]) -> onnx.ModelProto:
    writer = _Writer(architecture, weights)
    lines = [*writer.layers((architecture.stem,))]
    for block in architecture.blocks:
        lines += writer.block(block)
    lines += writer.layers((architecture.head,))
    body = "\n".join(lines)
    classifier = _identifier(architecture.classifier)
    text = f"""{architecture.name} (float[N, 3, 224, 224] input) => (float[N, 1000] logits) {{
        {body}
        mean = GlobalAveragePool ({writer.value})
        flat = Flatten (mean)
        logits = Gemm <transB = 1> (flat, {classifier}_weight, {classifier}_bias)
    }}"""
    arrays = {_identifier(name): array for name, array in weights.items() if array.dtype == np.float32}
    bounds = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    return build(text, arrays | bounds)


@dataclass(slots=True)
class _Writer:
    """Writes nodes one after the other; ``value`` is the name of the latest result."""

    architecture: Architecture
    weights: Mapping[str, Array]
    value: str = "input"
    count: int = 0

    def block(self, layers: tuple[Layer, ...]) -> Iterator[str]:
        source = self.value
        yield from self.layers(layers)
        width_in, width_out = self._width(layers[0], axis=1), self._width(layers[-1], axis=0)
        if width_in == width_out and all(layer.stride == 1 for layer in layers):
            yield f"sum{self.count} = Add ({self.value}, {source})"
            self.value = f"sum{self.count}"

    def layers(self, layers: tuple[Layer, ...]) -> Iterator[str]:
        for layer in layers:
            yield from self._layer(layer)

    def _layer(self, layer: Layer) -> Iterator[str]:
        i = self.count = self.count + 1
        kernel, norm = _identifier(layer.kernel), _identifier(layer.norm)
        yield f"conv{i} = Conv <{self._attributes(layer)}> ({self.value}, {kernel}_weight)"
        statistics = ", ".join(f"{norm}_{part}" for part in ("weight", "bias", "running_mean", "running_var"))
        yield f"norm{i} = BatchNormalization <epsilon = {self.architecture.epsilon}> (conv{i}, {statistics})"
        self.value = f"norm{i}"
        if layer.clip:
            yield f"clip{i} = Clip (norm{i}, low, high)"
            self.value = f"clip{i}"

    def _attributes(self, layer: Layer) -> str:
        outputs, inputs, height, _ = self.weights[f"{layer.kernel}.weight"].shape
        groups = outputs if inputs == 1 else 1
        pad = height // 2
        padding = (
            'auto_pad = "SAME_UPPER"' if self.architecture.same_padding else f"pads = [{pad}, {pad}, {pad}, {pad}]"
        )
        return f"group = {groups}, strides = [{layer.stride}, {layer.stride}], {padding}"

    def _width(self, layer: Layer, axis: int) -> int:
        shape = self.weights[f"{layer.kernel}.weight"].shape
        return int(shape[0] if shape[1] == 1 else shape[axis])  # a depthwise kernel is [C, 1, kH, kW]


def _identifier(name: str) -> str:
    return name.replace(".", "_")
