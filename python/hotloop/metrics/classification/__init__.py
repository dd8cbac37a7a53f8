"""Metrics of predicted classes, from counts."""
