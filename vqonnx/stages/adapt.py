"""Adapt: give the float model the operators that a device has, exactly where that is possible, else approximately.

What is exact is done to the model that the result is compared with. What only comes near it (the device's own
arithmetic, a Clip that becomes Relu) is done to the model that is quantized, so that the comparison shows its cost.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import onnx_ir as ir

from vqonnx.graph.names import ensure_unique_names
from vqonnx.transforms.batch_norm_conv import batch_norms_to_convs
from vqonnx.transforms.border_layout import channels_first_at_border, channels_last_at_border
from vqonnx.transforms.clips import clips_to_relus
from vqonnx.transforms.dpu_simulation import DpuSimulation, simulate_dpu
from vqonnx.transforms.fixed_shapes import fix_shapes
from vqonnx.transforms.fuse_gelu import fuse_gelus
from vqonnx.transforms.fuse_instance_norm import fuse_instance_norms
from vqonnx.transforms.fuse_l2_norm import fuse_l2_norms
from vqonnx.transforms.fuse_layer_norm import fuse_layer_norms
from vqonnx.transforms.half_precision import half_to_float
from vqonnx.transforms.large_pools import split_large_pools
from vqonnx.transforms.opset import convert_opset
from vqonnx.transforms.shapes import infer_shapes
from vqonnx.transforms.sharing import copy_shared_biases, copy_shared_initializers
from vqonnx.transforms.splits import splits_to_slices

_SOFTMAX = DpuSimulation(**{part.name: part.name == "softmax" for part in fields(DpuSimulation)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """What is done to the float model, besides preparing it; nothing by default.

    Attributes:
        half_to_float: Compute float16 models in float32; graph inputs and outputs too.
        opset: Write this version of the default domain.
        sizes: Sizes of dynamic dimensions, or shapes of graph inputs, by name.
        channels_last: Take and give tensors of rank 4 as NHWC, those of an NCHW model.
        channels_first: Take and give tensors of rank 4 as NCHW, those of an NHWC model.
        batch_norms: Make BatchNormalizations that no weight could take in depthwise Convs.
        splits: Make Splits Slices.
        large_pools: Make average poolings over more than 512 elements two.
        gelus: Fuse Gelus that are written out, where the opset has the operator.
        layer_norms: The same for LayerNormalization.
        instance_norms: The same for InstanceNormalization.
        l2_norms: The same for LpNormalization.
        own_constants: Give each reader its copy of a shared constant; of these operators only, of all where empty.
        own_biases: Give each product its copy of a shared bias.
        relus: Make Clips from 0 to 6 Relus; not exact.
        all_relus: Make Clips from 0 to any bound Relus; not exact.
        simulation: The device's arithmetic; not exact.
    """

    half_to_float: bool = False
    opset: int | None = None
    sizes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    channels_last: bool = False
    channels_first: bool = False
    batch_norms: bool = False
    splits: bool = False
    large_pools: bool = False
    gelus: bool = False
    layer_norms: bool = False
    instance_norms: bool = False
    l2_norms: bool = False
    own_constants: Sequence[str] | None = None
    own_biases: bool = False
    relus: bool = False
    all_relus: bool = False
    simulation: DpuSimulation | None = None

    @property
    def changes_border(self) -> bool:
        """Whether types, sizes or layout of what users feed and read, or the opset, are to change."""
        return bool(self.half_to_float or self.opset or self.sizes or self.channels_last or self.channels_first)

    @property
    def is_exact(self) -> bool:
        """Whether the model's outputs stay what they are."""
        return not (self.relus or self.all_relus) and self.simulation is None


def adapt_border(model: ir.Model, options: Adaptation) -> None:
    """Change types, sizes and layout of a model that is not prepared yet, in place; samples must fit what comes out.

    Raises:
        ModelError: The model has a form that cannot be changed so.
        OptionError: A name or size does not fit the model.
    """
    if not options.changes_border:
        return
    ensure_unique_names(model)
    infer_shapes(model)
    if options.half_to_float:
        half_to_float(model)
    if options.sizes:
        fix_shapes(
            model, {name: size if isinstance(size, int) else tuple(size) for name, size in options.sizes.items()}
        )
    if options.opset is not None:
        convert_opset(model, options.opset)
    if options.channels_last:
        channels_last_at_border(model)
    if options.channels_first:
        channels_first_at_border(model)


def adapt(model: ir.Model, options: Adaptation) -> dict[str, int]:
    """Change operators of a prepared model, in place, exactly up to rounding; how many, by what was done."""
    passes = {
        "Gelus fused": (options.gelus, fuse_gelus),
        "LayerNormalizations fused": (options.layer_norms, fuse_layer_norms),
        "InstanceNormalizations fused": (options.instance_norms, fuse_instance_norms),
        "LpNormalizations fused": (options.l2_norms, fuse_l2_norms),
        "BatchNormalizations made Convs": (options.batch_norms, batch_norms_to_convs),
        "Splits made Slices": (options.splits, splits_to_slices),
        "large poolings split": (options.large_pools, split_large_pools),
        "shared biases copied": (options.own_biases, copy_shared_biases),
    }
    counts = {name: step(model) for name, (wanted, step) in passes.items() if wanted}
    if options.own_constants is not None:
        counts["shared constants copied"] = copy_shared_initializers(model, options.own_constants)
    return _settled(model, counts)


def approximate(
    model: ir.Model, options: Adaptation, only: Collection[str] | None = None
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Change operators of a prepared model, in place, to what the device computes instead.

    Args:
        model: The model.
        options: What is done to it.
        only: Names of the nodes that the device is to run; all by default. The others compute what they did.

    Returns:
        How many, by what was done; and the nodes in which single operators of the device are written out, which no one
        is to quantize.
    """
    counts: dict[str, int] = {}
    inside: tuple[str, ...] = ()
    if options.relus or options.all_relus:
        counts["Clips made Relus"] = clips_to_relus(model, highest=None if options.all_relus else 6.0, only=only)
    if options.simulation is not None:
        changed = simulate_dpu(model, replace(options.simulation, softmax=False), only)
        if options.simulation.softmax:
            before = set(model.graph.all_nodes())
            changed += simulate_dpu(model, _SOFTMAX, only)
            ensure_unique_names(model)
            inside = tuple(node.name or "" for node in model.graph.all_nodes() if node not in before)
        counts["operators with the device's arithmetic"] = changed
    return _settled(model, counts), inside


def _settled(model: ir.Model, counts: dict[str, int]) -> dict[str, int]:
    """What changed something; new values get their shapes."""
    done = {name: count for name, count in counts.items() if count}
    if done:
        ensure_unique_names(model)
        infer_shapes(model)
    return done
