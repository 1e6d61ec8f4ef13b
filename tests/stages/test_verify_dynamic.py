"""A written node that does not compute what its codes say is found, whatever its operator."""

import numpy as np
import pytest

from tests.emitters import dynamic_models as made
from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.emitters.dynamic import emit_dynamic
from vqonnx.errors import VerificationError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.io import load, save
from vqonnx.planning.dynamic.nodes import DYNAMIC_OPERATORS, find_dynamic_nodes
from vqonnx.planning.dynamic.plan import plan_dynamic
from vqonnx.planning.rules import Selection
from vqonnx.quantizers.dynamic_options import dynamic_rules
from vqonnx.stages.round_rows import round_weights
from vqonnx.stages.verify_dynamic import Trial, verify_nodes
from vqonnx.stages.weights.prepare import prepare_weights

MODELS = {
    DynamicForm.PRODUCT: made.product(),
    DynamicForm.BATCH: made.batch(),
    DynamicForm.CONV: made.convolution(),
    DynamicForm.LSTM: made.recurrent("LSTM", directions=2),
    DynamicForm.ATTENTION: made.attention(mask=True),
    DynamicForm.EMBEDDING: made.embedding(mask=True),
    DynamicForm.DEQUANTIZED: made.recurrent("RNN"),
    DynamicForm.LOOKUP: made.tied(),
}


def written(form, path, *, spoiled):
    """Write a model of that form, with scales that are swapped where it is ``spoiled``; return its trials."""
    model = prepare_weights(load(MODELS[form]), DYNAMIC_OPERATORS).model
    found, skips = find_dynamic_nodes(model)
    rules = dynamic_rules(
        target="cpu",
        weight_type=None,
        per_channel=None,
        reduce_range=None,
        op_types_to_quantize=DYNAMIC_OPERATORS,
        nodes_to_quantize=None,
        nodes_to_exclude=None,
        extra_options=None,
    )
    assert rules.selection == Selection(op_types=DYNAMIC_OPERATORS)
    planned = plan_dynamic(found, skips, rules)
    rounded, _ = round_weights(planned.plan, planned.sources)
    trials = {
        name: Trial.of(model, node, {index: rounded[planned.plan.nodes[name].weights[index]] for index in node.weights})
        for name, node in planned.nodes.items()
    }
    emit_dynamic(model, planned.plan, rounded)
    for name, value in list(model.graph.initializers.items()):
        if spoiled and name.endswith("_scale"):
            doubled = add_initializer(model.graph, f"{name}_doubled", np.asarray(value.const_value.numpy() * 2))
            for node, index in value.uses():
                node.replace_input_with(index, doubled)
    save(model, path)
    return trials


@pytest.mark.parametrize("form", MODELS)
def test_what_was_written_is_close_to_what_its_codes_say(form, tmp_path):
    found = verify_nodes(tmp_path / "m.onnx", written(form, tmp_path / "m.onnx", spoiled=False))
    assert all(decibels > 30 for decibels in found.values())


@pytest.mark.parametrize("form", MODELS)
def test_other_scales_are_found(form, tmp_path):
    trials = written(form, tmp_path / "m.onnx", spoiled=True)
    with pytest.raises(VerificationError, match="computes something else than its integer weights say"):
        verify_nodes(tmp_path / "m.onnx", trials)
