"""One interface to everything that can run the network, one file per kind of engine."""
