"""The plan of weight-only quantization: which weights are packed, how, and which nodes read them. Data only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vqonnx.core.blocks import BlockSpec
from vqonnx.core.plan import Skip
from vqonnx.errors import OptionError

CODEBOOKS = ("nf4", "fp4")


class WeightForm(Enum):
    """What a packed weight becomes in the graph."""

    MATMUL_NBITS = "matmul_nbits"
    QDQ = "qdq"
    BNB4 = "bnb4"
    CHANNEL_QDQ = "channel_qdq"


class Reader(Enum):
    """What a node does with a packed weight W [K, N]."""

    PRODUCT = "multiplies rows of K inputs by it"
    LOOKUP = "gathers columns of it, which are rows of an embedding table [N, K]"


FLOAT16_IN_BODY = (
    "ONNX Runtime (1.31) fuses float16 DequantizeLinear in a body to a product of zeros; see format='matmul_nbits'"
)
"""Why a weight in the body of an If, Loop or Scan has no form with DequantizeLinear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookSpec:
    """Blocks of indices into a code book.

    Attributes:
        book: "nf4" or "fp4".
        block_size: Neighbours of the flat transpose that share a scale.

    Raises:
        OptionError: com.microsoft.MatMulBnb4 has no such book or block size.
    """

    book: str = "nf4"
    block_size: int = 64

    def __post_init__(self) -> None:
        if self.book not in CODEBOOKS:
            raise OptionError(f"the code book must be one of {CODEBOOKS}, got {self.book!r}", option="format")
        size = self.block_size
        if size & (size - 1) or not 16 <= size <= 256:
            raise OptionError(f"block_size must be a power of two from 16 to 256, got {size}", option="block_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPlan:
    """One constant weight that becomes one packed tensor, whoever reads it.

    Attributes:
        key: Unique name; the names of the packed tensors start with it.
        readers: The nodes that read it, in graph order; several where a weight is shared or tied.
        in_features: K, the length of the sums (of the rows of a table).
        out_features: N.
        dtype: Float type of the weight: "float32", "float16" or "bfloat16".
        form: What it becomes.
        spec: Bits and blocks; a code book's for ``BNB4``. For ``CHANNEL_QDQ`` 8 bits, block size -1, symmetric.
        algorithm: Name of the algorithm that solves it.
        inputs: Names of the activations that its products read, without repetition; empty for lookups.
        looked_up: Whether a reader looks columns up, so that the weight's own error counts beside the products'.
    """

    key: str
    readers: tuple[str, ...]
    in_features: int
    out_features: int
    dtype: str
    form: WeightForm
    spec: BlockSpec | CodebookSpec
    algorithm: str
    inputs: tuple[str, ...] = ()
    looked_up: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """One node whose weight is packed.

    Attributes:
        node: The node's unique name.
        op_type: Its operator.
        weight: Key of the weight's plan.
        reader: What it does with the weight.
    """

    node: str
    op_type: str
    weight: str
    reader: Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyPlan:
    """What becomes of every node with a weight.

    Attributes:
        weights: Packed weights, by key, in the order of their first readers.
        layers: The nodes that read them, by name, in graph order.
        skips: Nodes with a constant float weight, or an operator that was asked for, that stay as they are.
        accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32; 0 leaves it out.
        notes: Remarks for the report.
    """

    weights: Mapping[str, WeightPlan] = field(default_factory=dict)
    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    skips: tuple[Skip, ...] = ()
    accuracy_level: int = 4
    notes: tuple[str, ...] = ()
