"""``MatMulNBitsQuantizer``: onnxruntime's name and parameters over vqonnx's weight-only quantization, in memory."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike

import onnx
import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import open_samples
from vqonnx.compat.matmul_nbits_quantizer.configs import Axes, DefaultWeightOnlyQuantConfig, WeightOnlyQuantConfig
from vqonnx.compat.matmul_nbits_quantizer.model import ONNXModel
from vqonnx.compat.matmul_nbits_quantizer.recipes import Recipe, recipe_of
from vqonnx.compat.matmul_nbits_quantizer.rounded import solve_rounded
from vqonnx.compat.matmul_nbits_quantizer.settings import Settings, node_overrides
from vqonnx.compat.node_names import append_bits
from vqonnx.core.plan import Skip
from vqonnx.core.weight_plan import WeightForm
from vqonnx.errors import OptionError
from vqonnx.flows.packing import Packing, WeightOnlyJob
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.versions import least_ir_version
from vqonnx.planning.rules import Pattern, Selection
from vqonnx.planning.weights.layers import LAYER_OPERATORS
from vqonnx.progress import Progress, silent
from vqonnx.quantizers.types import QuantFormat
from vqonnx.report.figures import Level
from vqonnx.report.weights import WeightFigures
from vqonnx.stages.weights.store import MemoryStore

_log = logging.getLogger(__name__)

_OPTIONS = {"layers": "customized_weight_config", "nodes_to_quantize": "nodes_to_include"}
"""Options of weight-only quantization that have another name here."""

_SESSION_LEVEL = (
    "accuracy_level is an attribute of MatMulNBits; for DequantizeLinear the session decides "
    "(session.qdq_matmulnbits_accuracy_level, 4 by default)"
)


class MatMulNBitsQuantizer:
    """Packs the constant weights of a model into 2, 4 or 8 bits, with onnxruntime.quantization's interface.

    ::

        quantizer = MatMulNBitsQuantizer("model.onnx", block_size=32, is_symmetric=True, accuracy_level=4)
        quantizer.process()
        quantizer.model.save_model_to_file("model.int4.onnx", use_external_data_format=True)

    A MatMul ``n`` that reads ``w`` becomes the MatMulNBits ``n_Q4`` that reads ``w_Q4``, ``w_scales`` and
    ``w_zero_points``, with equal codes, scales and attributes where onnxruntime rounds to nearest. What differs:

    * the caller's ModelProto is never changed, and a path's weights stay in their file until they are packed;
    * a name in ``nodes_to_exclude``, ``nodes_to_include`` or a configuration that the model does not have is an error,
      and so are an algorithm's parameters that it would not heed; patterns ("*lm_head*") are taken too;
    * arguments that stand in ``algo_config`` too count wherever they are given; onnxruntime drops either one or the
      other. Two that contradict each other are an error;
    * all algorithms, formats and operators have 2, 4 and 8 bits; for QDQ the opset is raised to 21 by converting the
      operators, not by its number alone (2-bit QDQ is for models that have opset 25);
    * weights behind Constant, Transpose, Cast or Reshape nodes and in functions are found; weights that several nodes
      share, also a table and its transpose, are packed once;
    * a Gather becomes a GatherBlockQuantized whose table is uint8, which needs no newer opset;
    * for a weight with leading axes of size 1 nothing is added where the result has as many axes as the input; where
      it may have more, the node stays float (``skips`` says so);
    * what an algorithm makes worse than rounding to nearest is rounded to nearest, but for HQQ, which lowers another
      error;
    * GPTQ, HQQ and AWQ are numpy's and numba's work: torch is not needed. The configurations say what else differs.

    Attributes:
        model: The model: as given, and after ``process`` the packed one.
        model_path: The path that was given, or None.
        algo_config: The configuration.
        figures: After ``process``: what became of each weight, and how good it is.
        skips: After ``process``: nodes with a weight that stay as they are, and why.
        notes: After ``process``: remarks.
    """

    def __init__(
        self,
        model: onnx.ModelProto | ir.Model | str | PathLike[str],
        bits: int = 4,
        block_size: int = 128,
        is_symmetric: bool = False,
        accuracy_level: int | None = None,
        nodes_to_exclude: Iterable[Pattern] | None = None,
        nodes_to_include: Iterable[Pattern] | None = None,
        quant_format: QuantFormat = QuantFormat.QOperator,
        op_types_to_quantize: Iterable[str] | None = None,
        quant_axes: Axes | None = None,
        channel_wised_quantize: bool = False,
        algo_config: WeightOnlyQuantConfig | None = None,
        *,
        progress: Progress = silent,
    ) -> None:
        """Take what is asked for; nothing is read or computed.

        Args:
            model: A path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.
            bits: 2, 4 or 8.
            block_size: Weights along K that share a scale: 16, 32, 64, 128 or 256.
            is_symmetric: Whether every zero point is the middle code.
            accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32; None leaves it out.
            nodes_to_exclude: Names or patterns of nodes to leave float.
            nodes_to_include: Names or patterns of nodes to pack besides those of ``op_types_to_quantize``.
            quant_format: QOperator or QDQ.
            op_types_to_quantize: MatMul by default; also Gather, Gemm and Conv (1x1).
            quant_axes: Axis of the blocks, by operator; there are {"MatMul": 0, "Gather": 1} only.
            channel_wised_quantize: One scale an output channel; for QDQ.
            algo_config: The algorithm; ``DefaultWeightOnlyQuantConfig`` by default. onnxruntime's own are taken too.
            progress: Told how far ``process`` is.

        Raises:
            OptionError: An argument makes no sense, or contradicts another.
        """
        self.model = ONNXModel(model)
        self.model_path = self.model.model_path
        self.bits = bits
        self.block_size = block_size
        self.is_symmetric = is_symmetric
        self.accuracy_level = accuracy_level
        self.nodes_to_exclude = list(nodes_to_exclude or ())
        self.nodes_to_include = list(nodes_to_include or ())
        self.quant_format = quant_format
        self.op_types_to_quantize = None if op_types_to_quantize is None else set(op_types_to_quantize)
        self.quant_axes = quant_axes
        self.channel_wised_quantize = channel_wised_quantize
        self.algo_config = DefaultWeightOnlyQuantConfig() if algo_config is None else algo_config
        self.progress = progress
        self.figures: tuple[WeightFigures, ...] = ()
        self.skips: tuple[Skip, ...] = ()
        self.notes: tuple[str, ...] = ()
        self._job(recipe_of(self.algo_config))

    def process(self) -> None:
        """Pack the weights; ``model`` is the result.

        Raises:
            OptionError: A name matches nothing, or an option makes no sense for a layer.
            ModelError: The model cannot be read, or there is nothing to pack.
            SampleError: A sample does not fit the model, or is not finite.
            QuantRangeError: A weight holds NaN or infinity; it is named.
        """
        recipe = recipe_of(self.algo_config)
        with _onnxruntimes_names():
            packing = Packing.of(load(self.model.source), self._job(recipe))
        solved = MemoryStore()
        with ExitStack() as stack:
            samples = None
            if recipe.reader is not None:
                samples = stack.enter_context(open_samples(recipe.reader, model_inputs(packing.model)))
            if recipe.ratios is not None:
                solve_rounded(packing, solved, recipe.ratios)
            packing.solve(solved, samples)
        packing.emit(solved)
        append_bits(packing.model, packing.plan.layers, NameAllocator.of(packing.model))
        packing.model.ir_version = least_ir_version(packing.model)
        self.model = ONNXModel(packing.model)
        self.figures, self.skips = packing.figures(solved, {}), packing.plan.skips
        self.notes = self._notes(packing)
        for note in packing.plan.notes:
            _log.warning("%s", note)

    def _job(self, recipe: Recipe) -> WeightOnlyJob:
        settings = Settings.of(self).joined(Settings.of(self.algo_config))
        overrides = node_overrides(getattr(self.algo_config, "customized_weight_config", None))
        rules = settings.rules(recipe.algorithm, self._selection(settings.op_types_to_quantize), overrides)
        # CHECKED: the result is not run here, so it may be one that no provider on this machine can run.
        return WeightOnlyJob(rules=rules, options=recipe.options, level=Level.CHECKED, progress=self.progress)

    def _selection(self, op_types: tuple[str, ...]) -> Selection:
        exclude = tuple(self.nodes_to_exclude)
        if not self.nodes_to_include:
            return Selection(exclude=exclude, op_types=op_types)

        def is_wanted(node: onnx.NodeProto) -> bool:
            return node.op_type in op_types

        return Selection(nodes=(is_wanted, *self.nodes_to_include), exclude=exclude, op_types=LAYER_OPERATORS)

    def _notes(self, packing: Packing) -> tuple[str, ...]:
        rules = packing.job.rules
        ignored = rules.form is WeightForm.QDQ and rules.accuracy_level
        return (*packing.notes, _SESSION_LEVEL) if ignored else tuple(packing.notes)


@contextmanager
def _onnxruntimes_names() -> Iterator[None]:
    """Let errors name options as they are called here."""
    try:
        yield
    except OptionError as error:
        if error.option not in _OPTIONS:
            raise
        name = _OPTIONS[error.option]
        raise OptionError(str(error).replace(error.option, name, 1), option=name) from error
