"""Base models, and what makes them equivariant."""

from lps.models.build import build
from lps.models.symmetrized import IdentifiedModel, Output, SymmetrizedModel

__all__ = ["IdentifiedModel", "Output", "SymmetrizedModel", "build"]
