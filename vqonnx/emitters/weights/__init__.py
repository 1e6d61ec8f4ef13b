"""Packed weights, one form a file."""
