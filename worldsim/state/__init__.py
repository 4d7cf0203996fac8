"""Batched state as trees of tensors, in memory and on disk."""
