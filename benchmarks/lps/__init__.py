"""Benchmarks of the paper's system; they need the extra `lps`, and are run one by one."""
