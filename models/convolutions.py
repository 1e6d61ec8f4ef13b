"""Convolutions of every legal kind: grouped, transposed, dilated, one- and three-dimensional."""

from functools import partial

import onnx

from models.build import Weights, build
from models.registry import Case, register


def conv_transpose(groups: int) -> onnx.ModelProto:
    """ConvTranspose, whose weight is [C, M/groups, kH, kW]: the output axis is 1, repeated per group."""
    weights = Weights(20 + groups)
    weights.normal("w", 8, 12 // groups, 3, 3)
    weights.bias("b", 12)
    text = f"""conv_transpose (float[N, 8, 5, 5] x) => (float[N, 12, H, W] y) {{
        y = ConvTranspose <group = {groups}, strides = [2, 2], pads = [1, 1, 1, 1]> (x, w, b)
    }}"""
    return build(text, weights.arrays)


def grouped_conv(groups: int) -> onnx.ModelProto:
    """Conv with groups, stride, dilation and unequal pads."""
    weights = Weights(30 + groups)
    weights.conv("c", 16, 8 // groups, 3, 3)
    text = f"""grouped_conv (float[N, 8, 9, 9] x) => (float[N, 16, H, W] y) {{
        c = Conv <group = {groups}, strides = [2, 1], dilations = [1, 2], pads = [0, 2, 1, 2]> (x, c_w, c_b)
        y = Relu (c)
    }}"""
    return build(text, weights.arrays)


def conv_1d() -> onnx.ModelProto:
    """A one-dimensional Conv without a bias."""
    weights = Weights(40)
    weights.normal("w", 8, 4, 5)
    return build(
        'conv_1d (float[N, 4, L] x) => (float[N, 8, M] y) { y = Conv <auto_pad = "SAME_UPPER"> (x, w) }',
        weights.arrays,
    )


def conv_3d() -> onnx.ModelProto:
    """A three-dimensional Conv, then global pooling."""
    weights = Weights(41)
    weights.conv("c", 6, 3, 3, 3, 3)
    text = """conv_3d (float[N, 3, 5, 6, 7] x) => (float[N, 6, 1, 1, 1] y) {
        c = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, c_w, c_b)
        y = GlobalAveragePool (c)
    }"""
    return build(text, weights.arrays)


def batch_norm() -> onnx.ModelProto:
    """Conv and ConvTranspose, each before a BatchNormalization that leaves epsilon at its default."""
    weights = Weights(42)
    weights.conv("c", 8, 3, 3, 3)
    weights.normal("t_w", 8, 4, 2, 2)
    for name, channels in (("n", 8), ("m", 4)):
        for part in ("scale", "bias", "mean", "var"):
            weights.bias(f"{name}_{part}", channels, gain=0.5)
        weights.arrays[f"{name}_var"] = weights.arrays[f"{name}_var"] ** 2 + 0.1
        weights.arrays[f"{name}_scale"] += 1
    text = """batch_norm (float[N, 3, 8, 8] x) => (float[N, 4, 16, 16] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, c_w, c_b)
        n = BatchNormalization (c, n_scale, n_bias, n_mean, n_var)
        r = Relu (n)
        t = ConvTranspose <strides = [2, 2]> (r, t_w)
        y = BatchNormalization (t, m_scale, m_bias, m_mean, m_var)
    }"""
    return build(text, weights.arrays)


def dynamic_weight() -> onnx.ModelProto:
    """Conv whose weight is an input of the model: nothing can be solved ahead of time."""
    text = """dynamic_weight (float[N, 3, 6, 6] x, float[4, 3, 3, 3] w) => (float[N, 4, 4, 4] y) {
        y = Conv (x, w)
    }"""
    return build(text)


for _groups in (1, 2, 4):
    register(
        Case(
            name=f"convolutions/transpose_{_groups}",
            build=partial(conv_transpose, _groups),
            what=f"ConvTranspose with {_groups} groups",
        )
    )
for _groups in (2, 8):
    register(
        Case(
            name=f"convolutions/grouped_{_groups}",
            build=partial(grouped_conv, _groups),
            what=f"Conv with {_groups} groups, dilation and unequal pads",
        )
    )
register(Case(name="convolutions/1d", build=conv_1d, what="Conv over one dimension", sizes={"L": (16, 9)}))
register(Case(name="convolutions/3d", build=conv_3d, what="Conv over three dimensions"))
register(Case(name="convolutions/batch_norm", build=batch_norm, what="BatchNormalization, epsilon by default"))
register(Case(name="convolutions/dynamic", build=dynamic_weight, what="a weight that is an input"))
