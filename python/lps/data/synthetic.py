"""Stand-ins with the shapes of PATTERN, Peptides and PCQM-Contact, generated in a moment and without a network."""

from __future__ import annotations

import torch
from torch import Tensor

from lps.data.ragged import RaggedGraphs, pointers

# Classes of each column of atoms' and bonds' features.
PEPTIDE_NODES, PEPTIDE_EDGES = (17, 3, 7, 7, 5, 1, 6, 2, 2), (4, 1, 2)
CONTACT_NODES, CONTACT_EDGES = (35, 3, 7, 7, 2, 4, 6, 2, 2), (4, 1, 1)


def pattern_like(count: int, seed: int = 0, n: int = 188) -> RaggedGraphs:
    """Graphs drawn as PATTERN describes: find the nodes of a planted pattern; one-hot features of 3, targets of 0, 1.

    Five communities of 5 to 34 nodes, edges within with probability 0.5 and between with 0.35; one of 100 patterns of
    20 nodes with edge probability 0.5, joined to each other node with probability 0.5; features uniform; no node's
    place tells anything. Graphs above n nodes are drawn again.
    Source: Dwivedi et al., "Benchmarking Graph Neural Networks", 2020, section A.3.
    """
    g = torch.Generator().manual_seed(seed)
    patterns = [(_bernoulli(torch.full((20, 20), 0.5), g), torch.randint(0, 3, (20,), generator=g)) for _ in range(100)]
    graphs = []
    while len(graphs) < count:
        community = torch.arange(5).repeat_interleave(torch.randint(5, 35, (5,), generator=g))
        size, m = community.numel(), community.numel() + 20
        if m > n:
            continue
        within = community[:, None] == community
        adjacency = _bernoulli(torch.full((m, m), 0.5), g)  # of which the joint part stays
        adjacency[:size, :size] = _bernoulli(torch.where(within, 0.5, 0.35), g)
        planted, feature = patterns[int(torch.randint(0, 100, (1,), generator=g))]
        adjacency[size:, size:] = planted
        x = torch.cat((torch.randint(0, 3, (size,), generator=g), feature))
        order = torch.randperm(m, generator=g)
        graphs.append((adjacency[order][:, order].nonzero().T, x[order][:, None], (order >= size).long()))
    edges, xs, target = zip(*graphs)
    return _join(edges, xs, torch.cat(target), n, level="node", node_classes=(3,))


def peptides_like(count: int, outputs: int, seed: int = 0, n: int = 444) -> RaggedGraphs:
    """Chains of residues with side chains: 8 to n nodes, 151 on average, two directed edges a bond.

    outputs 10: classes as Peptides-func, each whether a kind of atom is more frequent than usual; 11: real numbers as
    Peptides-struct, standardized counts and lengths. Both follow from the graph, so that they can be learned.
    """
    g = torch.Generator().manual_seed(seed)
    edges, xs, attributes, target = [], [], [], []
    for _ in range(count):
        m = int((torch.randn((), generator=g) * 80 + 151).clamp(8, n))
        bonds = _chain(m, g)
        x = torch.stack([torch.randint(0, c, (m,), generator=g) for c in PEPTIDE_NODES], -1)
        share = torch.bincount(x[:, 0], minlength=17)[:10] / m
        length = torch.tensor([(m - 151) / 80])
        target.append((share > 1 / 17).float() if outputs == 10 else torch.cat((17 * share - 1, length)))
        edges.append(torch.cat((bonds, bonds.flip(0)), 1))
        a = torch.stack([torch.randint(0, c, (bonds.shape[1],), generator=g) for c in PEPTIDE_EDGES], -1)
        attributes.append(torch.cat((a, a)))
        xs.append(x)
    kinds = {"node_classes": PEPTIDE_NODES, "edge_classes": PEPTIDE_EDGES}
    return _join(edges, xs, torch.stack(target), n, edge_attr=torch.cat(attributes), **kinds)


def contact_like(count: int, seed: int = 0, n: int = 53) -> RaggedGraphs:
    """Molecule-like trees of 8 to n nodes, whose contacts are the pairs four bonds apart.

    Labelled as in PCQM-Contact are contacts, 1, and other pairs, 0, two for a contact on average. There a contact is a
    pair that is near in space and far, beyond five bonds, in the graph.
    """
    g = torch.Generator().manual_seed(seed)
    edges, xs, attributes, pairs, labels = [], [], [], [], []
    for _ in range(count):
        m = int((torch.randn((), generator=g) * 6 + 30).clamp(8, n))
        bonds = _chain(m, g)
        adjacency = torch.zeros(m, m)
        adjacency[bonds[0], bonds[1]] = adjacency[bonds[1], bonds[0]] = 1
        reach = torch.eye(m) + adjacency
        three = torch.matrix_power(reach, 3) > 0
        apart = (torch.matrix_power(reach, 4) > 0) & ~three
        share = 2 * apart.sum() / (~apart).sum()
        chosen = (apart | (torch.rand(m, m, generator=g) < share)).triu(1).nonzero().T
        pairs.append(chosen)
        labels.append(apart[chosen[0], chosen[1]])
        xs.append(torch.stack([torch.randint(0, c, (m,), generator=g) for c in CONTACT_NODES], -1))
        edges.append(torch.cat((bonds, bonds.flip(0)), 1))
        a = torch.stack([torch.randint(0, c, (bonds.shape[1],), generator=g) for c in CONTACT_EDGES], -1)
        attributes.append(torch.cat((a, a)))
    more = {"pair_ptr": pointers([p.shape[1] for p in pairs]), "pair_index": torch.cat(pairs, 1)}
    kinds = {"node_classes": CONTACT_NODES, "edge_classes": CONTACT_EDGES, "edge_attr": torch.cat(attributes)}
    return _join(edges, xs, torch.cat(labels).float(), n, level="pair", **kinds, **more)


def _join(edges, xs, target: Tensor, n: int, **fields) -> RaggedGraphs:
    node_ptr, edge_ptr = pointers([x.shape[0] for x in xs]), pointers([e.shape[1] for e in edges])
    return RaggedGraphs(node_ptr, edge_ptr, torch.cat(xs), torch.cat(list(edges), 1), target, n, **fields)


def _bernoulli(probability: Tensor, g: torch.Generator) -> Tensor:
    """A symmetric 0-1 matrix without a diagonal."""
    upper = (torch.rand(probability.shape, generator=g) < probability).triu(1)
    return (upper | upper.T).float()


def _chain(m: int, g: torch.Generator) -> Tensor:
    """Bonds (2, m - 1) of a tree: a node hangs on the one before it or, one time in four, on one of the five before."""
    node = torch.arange(1, m)
    back = torch.where(
        torch.rand(m - 1, generator=g) < 0.25, torch.randint(1, 6, (m - 1,), generator=g), torch.ones(m - 1).long()
    )
    return torch.stack(((node - back).clamp(min=0), node))
