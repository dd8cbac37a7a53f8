"""Metrics of scores: curves, areas, likelihoods and calibration."""
