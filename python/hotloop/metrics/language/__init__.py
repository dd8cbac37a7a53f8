"""Metrics of predicted tokens."""
