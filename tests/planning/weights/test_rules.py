"""What users may fix for weights, and which forms have what they ask for."""

import pytest

from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec, WeightForm
from vqonnx.errors import OptionError
from vqonnx.planning.weights.rules import LayerOverride, WeightRules

CHANNELS = BlockSpec(bits=8, block_size=-1, symmetric=True)


def test_an_override_comes_from_a_dictionary() -> None:
    given = {"bits": 8, "block_size": 64, "symmetric": True, "algorithm": "gptq"}
    assert LayerOverride.parse(given) == LayerOverride(bits=8, block_size=64, symmetric=True, algorithm="gptq")
    assert LayerOverride.parse({"bits": None}) == LayerOverride()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"blocksize": 32},
            "layers: 'blocksize' is not known (did you mean 'block_size'?); there are bits, block_size",
        ),
        ({"bits": "4"}, "layers: bits must be of type int, got '4'"),
        ({"bits": True}, "layers: bits must be of type int, got True"),
        ({"symmetric": 1}, "layers: symmetric must be of type bool, got 1"),
    ],
)
def test_a_wrong_key_or_type_is_an_error(settings: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        LayerOverride.parse(settings)
    assert str(caught.value).startswith(message)
    assert caught.value.option == "layers"


def test_the_later_of_two_overrides_wins_key_by_key() -> None:
    first, second = LayerOverride(bits=8, symmetric=False), LayerOverride(bits=2, algorithm="hqq")
    assert first.joined(second) == LayerOverride(bits=2, symmetric=False, algorithm="hqq")
    assert first.contradicts(second)
    assert not first.contradicts(LayerOverride(bits=8, block_size=16))


def test_an_override_changes_what_it_names() -> None:
    rules = WeightRules(spec=BlockSpec(block_size=64), algorithm="gptq")
    override = LayerOverride(bits=8, symmetric=False, algorithm="rtn")
    assert rules.spec_for(override) == BlockSpec(bits=8, block_size=64)
    assert (rules.algorithm_for(override), rules.algorithm_for(LayerOverride())) == ("rtn", "gptq")


@pytest.mark.parametrize(
    ("rules", "message", "option"),
    [
        ({"accuracy_level": 5}, "accuracy_level must lie in 0..4, got 5", "accuracy_level"),
        ({"spec": BlockSpec(block_size=-1)}, "com.microsoft::MatMulNBits has no scale per channel; give", "block_size"),
        (
            {"form": WeightForm.QDQ, "spec": BlockSpec(bits=2, block_size=16)},
            "ONNX Runtime has no fast kernel for 2-bit codes in blocks of 16; give a block_size of 32 or more.",
            "block_size",
        ),
        ({"form": WeightForm.BNB4}, "format 'bnb4' and BlockSpec do not go together", "format"),
        ({"spec": CodebookSpec()}, "format 'matmul_nbits' and CodebookSpec do not go together", "format"),
        ({"form": WeightForm.CHANNEL_QDQ}, "format 'channel_qdq' means 8 bits, one scale a channel, symm", "format"),
        ({"layers": {"*down*": LayerOverride(bits=3)}}, "layers: '*down*': bits must be one of (2, 4, 8)", "layers"),
        ({"layers": {"a": LayerOverride(block_size=-1)}}, "layers: 'a': com.microsoft::MatMulNBits has no", "layers"),
        (
            {"form": WeightForm.CHANNEL_QDQ, "spec": CHANNELS, "layers": {"a": LayerOverride(bits=4)}},
            "layers: 'a': format 'channel_qdq' means 8 bits",
            "layers",
        ),
        (
            {"form": WeightForm.BNB4, "spec": CodebookSpec(), "layers": {"a": LayerOverride(bits=8)}},
            "layers: 'a': a code book has 4 bits and no zero points; only its block_size can differ",
            "layers",
        ),
        (
            {"form": WeightForm.BNB4, "spec": CodebookSpec(), "layers": {"a": LayerOverride(symmetric=True)}},
            "layers: 'a': a code book has 4 bits",
            "layers",
        ),
    ],
)
def test_what_a_form_does_not_have_is_refused(rules: dict[str, object], message: str, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        WeightRules(**rules)  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)
    assert caught.value.option == option


def test_what_a_form_has_is_accepted() -> None:
    WeightRules(form=WeightForm.QDQ, spec=BlockSpec(block_size=-1))
    WeightRules(form=WeightForm.CHANNEL_QDQ, spec=CHANNELS)
    rules = WeightRules(form=WeightForm.BNB4, spec=CodebookSpec(book="fp4"))
    assert rules.spec_for(LayerOverride(bits=4, block_size=128)) == CodebookSpec(book="fp4", block_size=128)
