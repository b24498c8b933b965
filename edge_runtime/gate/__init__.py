"""The gate: an engine's answers beside the original's, as figures, and whether the engine may be used."""
