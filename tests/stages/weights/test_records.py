import json

import ml_dtypes
import numpy as np
import pytest

from vqonnx.core.blocks import BlockSpec, CodebookBlocks
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.kernels.blocks.codebook import FP4, round_to_book
from vqonnx.kernels.blocks.rounding import round_blocks
from vqonnx.stages.weights.records import arrays_of, dtype_called, joined, scalars_of


def solved_weight(packed, **more):
    return SolvedWeight(
        key="k", packed=packed, asked="gptq", algorithm="rtn", data=True, error=0.1, rtn_error=float("inf"), **more
    )


def test_parts_make_the_weight_again(rng):
    weight = rng.normal(size=(40, 6)).astype(np.float32)
    solved = solved_weight(round_blocks(weight, BlockSpec()), channel_scales=np.ones(40, np.float32), note="n")
    arrays, scalars = arrays_of(solved), json.loads(json.dumps(scalars_of(solved)))
    assert sorted(arrays) == ["channel_scales", "packed.codes", "packed.scales", "packed.zero_points"]
    again = joined(scalars, arrays)
    assert again.packed.codes is solved.packed.codes
    assert (again.key, again.rtn_error, again.note, again.packed.bits) == ("k", float("inf"), "n", 4)


def test_what_is_absent_stays_absent(rng):
    weight = rng.normal(size=(40, 6)).astype(np.float32)
    solved = solved_weight(round_blocks(weight, BlockSpec(symmetric=True)))
    again = joined(scalars_of(solved), arrays_of(solved))
    assert again.packed.zero_points is None
    assert again.channel_scales is None
    assert again.calibration_error is None


def test_code_books_are_told_apart(rng):
    packed = round_to_book(rng.normal(size=(40, 6)).astype(np.float32), FP4, 16)
    solved = solved_weight(packed)
    again = joined(scalars_of(solved), arrays_of(solved))
    assert isinstance(again.packed, CodebookBlocks)
    assert again.packed.book == "fp4"


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, ml_dtypes.bfloat16])
def test_types_are_found_by_name(dtype):
    assert dtype_called(np.dtype(dtype).name) == np.dtype(dtype)
