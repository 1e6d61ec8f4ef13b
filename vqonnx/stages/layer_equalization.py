"""Equalize layers: the ways in which the weights on both sides of an activation may be brought to one size."""

from dataclasses import replace
from enum import Enum

import onnx_ir as ir

from vqonnx.transforms.cross_layer import CrossLayerEqualization, equalize_layers


class Equalization(Enum):
    """How far it goes; see ``transforms.cross_layer``."""

    NONE = "none"
    LINKS = "links"
    """Between layers with nothing between them that a factor does not pass through."""
    THROUGH_CLIPS = "through clips"
    """Through Clips too, whose bounds become one a channel (Relu and Min)."""


def equalized_layers(model: ir.Model, how: Equalization, options: CrossLayerEqualization) -> int:
    """Equalize the layers of a prepared model, in place; return how many links changed. Exact in float."""
    if how is Equalization.NONE:
        return 0
    return equalize_layers(model, replace(options, through_clips=how is Equalization.THROUGH_CLIPS))
