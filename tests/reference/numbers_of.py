"""The numbers that tests give to a tensor, from its name; tests/src/lib.rs makes the same."""

import math


def numbers(name, shape):
    """Numbers in [-1, 1): a linear congruential generator seeded with the FNV-1a hash of the name, scaled by kind."""
    state = 2166136261
    for byte in name.encode():
        state = ((state ^ byte) * 16777619) % 2**32
    found = []
    for _ in range(math.prod(shape)):
        state = (state * 1664525 + 1013904223) % 2**32
        found.append((state >> 8) / 2**23 - 1.0)
    if name.endswith("bias"):
        return [0.2 * n for n in found]
    if len(shape) == 1:
        return [1.0 + 0.2 * n for n in found]
    return [0.3 * n for n in found]
