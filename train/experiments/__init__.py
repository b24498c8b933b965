"""Trials of the training recipe: run by hand with python -m."""
