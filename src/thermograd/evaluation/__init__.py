"""Measuring a run: evidence, variance, distances; one record format."""
