"""What only a board can show: one command that runs it all and writes one report."""
