"""Group elements: light, immutable holders of tensors that know how to act on inputs and outputs."""

import torch

from lps_kernels.elements.base import Composition, GroupElement
from lps_kernels.elements.euclidean import Euclidean
from lps_kernels.elements.orthogonal import Orthogonal, Unitary
from lps_kernels.elements.permutation import Permutation
from lps_kernels.elements.product import Product

__all__ = ["Composition", "Euclidean", "GroupElement", "Orthogonal", "Permutation", "Product", "Unitary"]

# What a checkpoint of elements holds: torch.load reads it with weights_only=True, its default.
torch.serialization.add_safe_globals([Composition, Euclidean, Orthogonal, Permutation, Product, Unitary])
