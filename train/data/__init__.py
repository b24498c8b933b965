"""Labelled photos: tables, checks, splits, batches."""
