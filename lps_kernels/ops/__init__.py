"""The ops: one file each, its definition in PyTorch first."""
