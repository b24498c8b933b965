"""The verb bench: engines side by side, measured in turns in processes of their own, as pages and tables."""
