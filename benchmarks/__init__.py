"""How fast a bundle's engines are on this machine, side by side."""
