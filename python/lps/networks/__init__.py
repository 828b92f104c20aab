"""Equivariant networks that distributions of group elements are made of."""

from lps.networks.gin import GIN
from lps.networks.vn_dgcnn import VNDGCNN

__all__ = ["GIN", "VNDGCNN"]
