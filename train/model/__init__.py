"""The network and its training, up to the exported bundle."""
