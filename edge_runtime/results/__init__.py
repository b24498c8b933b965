"""Rows of answers, the files they are written to, and the journal that lets a run resume."""
