"""Weights in blocks: grids, codes, packing, their errors, and the inner loops of the algorithms."""
