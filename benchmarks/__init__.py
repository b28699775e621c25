"""Benchmarks: each compares with its floor in the same run and prints a ratio."""
