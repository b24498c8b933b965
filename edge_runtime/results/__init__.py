"""Rows of answers, the files and streams that they are written to, and how a stopped run resumes."""
