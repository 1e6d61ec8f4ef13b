"""``TensorQuantOverrides`` as users write it, key by key, and every mistake in it."""

from typing import Any

import numpy as np
import pytest

from vqonnx.core.qtype import INT8, UINT16
from vqonnx.errors import OptionError
from vqonnx.planning.rules import Conversion, Override
from vqonnx.quantizers.overrides import parse_overrides
from vqonnx.quantizers.types import QuantType


def parsed(entries: Any) -> Override:
    return parse_overrides({"t": entries})["t"]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{}], Override()),
        ({"symmetric": True}, Override(symmetric=True)),
        ([{"quant_type": QuantType.QInt8}], Override(qtype=INT8)),
        ([{"quant_type": "quint16"}], Override(qtype=UINT16)),
        ([{"symmetric": np.bool_(False)}], Override(symmetric=False)),
        ([{"reduce_range": True}], Override(reduce_range=True)),
        ([{"axis": np.int64(1)}], Override(axis=1)),
        ([{"rmin": -1, "rmax": np.float32(2)}], Override(low=-1.0, high=2.0)),
        ([{"scale": 0.5, "zero_point": 3}], Override(scale=(0.5,), zero_point=(3,))),
        ([{"scale": np.array(0.5), "zero_point": np.array(3, np.uint8)}], Override(scale=(0.5,), zero_point=(3,))),
        ([{"scale": [0.5, 1], "zero_point": [0, 1.0]}], Override(scale=(0.5, 1), zero_point=(0, 1))),
        (
            [{"axis": 0, "scale": 0.5, "zero_point": 0}, {"scale": 1.0, "zero_point": 1}],
            Override(axis=0, scale=(0.5, 1.0), zero_point=(0, 1)),
        ),
        (
            [{"convert": {"quant_type": "QInt8", "symmetric": True, "recv_nodes": ["n"]}}],
            Override(conversion=Conversion(form=Override(qtype=INT8, symmetric=True), readers=frozenset({"n"}))),
        ),
        (
            [{"convert": {"quant_type": "QInt8", "rmin": 0, "rmax": 1}}],
            Override(conversion=Conversion(form=Override(qtype=INT8, low=0.0, high=1.0))),
        ),
        (
            [{"convert": {"quant_type": "QInt8", "scale": 1, "zero_point": 0}}],
            Override(conversion=Conversion(form=Override(qtype=INT8, scale=(1,), zero_point=(0,)))),
        ),
    ],
)
def test_each_documented_key_is_read(entries: Any, expected: Override) -> None:
    assert parsed(entries) == expected


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("int8", "'t' takes a list of dictionaries, got 'int8'"),
        ([], "'t' takes a list of dictionaries, got []"),
        ([1], "'t' takes a list of dictionaries, got [1]"),
        ([{"symetric": True}], "'t' has no key 'symetric' (did you mean 'symmetric'"),
        ([{"scale": 1.0}], "Must provide both 'scale' and 'zero_point'"),
        ([{"zero_point": 1}], "Must provide both 'scale' and 'zero_point'"),
        ([{"rmax": 1.0}], "Must provide both 'rmin' and 'rmax'"),
        ([{"scale": 1.0, "zero_point": 0, "symmetric": True}], "option(s) [symmetric] are invalid with 'scale'"),
        ([{"scale": 1.0, "zero_point": 0, "rmin": 0}], "option(s) [rmin] are invalid with 'scale' and 'zero_point'"),
        ([{"scale": 0.0, "zero_point": 0}], "'scale' must be finite and above 0, got [0.0]"),
        ([{"scale": float("nan"), "zero_point": 0}], "'scale' must be finite and above 0"),
        ([{"scale": -1, "zero_point": 0}], "'scale' must be finite and above 0"),
        ([{"scale": "1", "zero_point": 0}], "'scale' takes numbers, got '1'"),
        ([{"scale": 1.0, "zero_point": 0.5}], "takes integers for 'axis' and 'zero_point', got 0.5"),
        ([{"axis": "0"}], "takes integers for 'axis' and 'zero_point', got '0'"),
        ([{"rmin": [0, 1], "rmax": [2, 3]}], "'rmin' takes one finite number, got [0, 1]"),
        ([{"rmin": 0, "rmax": float("inf")}], "'rmax' takes one finite number, got inf"),
        ([{"symmetric": 1}], "'symmetric' takes True or False, got 1"),
        ([{"reduce_range": "no"}], "'reduce_range' takes True or False, got 'no'"),
        ([{}, {}], "'t' has several entries, one a channel, but the first names no 'axis'"),
        ([{"axis": 0, "scale": 1.0, "zero_point": 0}, {}], "needs 'scale' and 'zero_point' in each of its entries"),
        ([{"axis": 0, "symmetric": True}, {"symmetric": False}], "has entries that differ in 'symmetric'"),
        ([{"convert": {"symmetric": True}}], "'convert' takes a dictionary with at least 'quant_type'"),
        ([{"convert": "QInt8"}], "'convert' takes a dictionary with at least 'quant_type'"),
        ([{"convert": {"quant_type": "QInt8", "axis": 0}}], "'t (convert)' has no key 'axis'"),
    ],
)
def test_a_mistake_is_named_with_its_tensor(entries: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        parsed(entries)
    assert str(caught.value).startswith("TensorQuantOverrides: 't")
    assert message in str(caught.value)
    assert caught.value.option == "TensorQuantOverrides"


def test_an_unknown_type_is_an_error_that_offers_the_nearest() -> None:
    with pytest.raises(OptionError, match="'QInt88' is no QuantType \\(did you mean 'QInt8'"):
        parsed([{"quant_type": "QInt88"}])


def test_overrides_are_a_dictionary() -> None:
    with pytest.raises(OptionError, match="must map tensor names to lists of dictionaries, got list"):
        parse_overrides([{}])
