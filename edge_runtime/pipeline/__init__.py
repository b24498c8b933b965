"""Photos through decoding, batching and an engine, in order, none lost."""
