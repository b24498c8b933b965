"""Energy while a block of code runs: meter.Meter samples one source of power; one module per kind of source."""
