"""Measures of a model: parity with the reference, benchmarks, reports."""
