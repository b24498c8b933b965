"""Measurements behind the figures in docs: each is run by hand with python -m."""
