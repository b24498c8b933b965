"""From a bundle to an engine for this machine, checked against the bundle's model before it may be used."""
