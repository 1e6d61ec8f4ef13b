from vqonnx.core.positions import AlignRule, NodeKind
from vqonnx.targets.vitis import NPU_RULES

DOCUMENTED = {
    "AdjustShiftCut", "AdjustShiftBias", "AdjustShiftRead", "AdjustShiftWrite", "AdjustHardSigmoid",
    "AdjustShiftSwish", "AlignConcat", "AlignPool", "AlignPad", "AlignSlice", "AlignTranspose", "AlignReshape",
}  # fmt: skip


def test_every_documented_option_has_rules():
    assert {rule.option for rule in NPU_RULES} == DOCUMENTED


def test_only_transpose_and_reshape_are_off_by_default():
    assert {rule.option for rule in NPU_RULES if not rule.default} == {"AlignTranspose", "AlignReshape"}


def test_every_kind_of_node_has_a_rule_and_alignments_come_first():
    assert {kind for rule in NPU_RULES for kind in rule.kinds} == set(NodeKind)
    shapes = [isinstance(rule, AlignRule) for rule in NPU_RULES]
    assert shapes == sorted(shapes, reverse=True)
