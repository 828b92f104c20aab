"""Kernels in Triton, one file an op: kernels on top, and below them a launcher of the op's name and schema.

A launcher makes its inputs contiguous, checks what would corrupt memory, allocates what it returns, and launches on the
current stream. Nothing is imported here: triton is an optional dependency, and importing it takes a second.
"""
