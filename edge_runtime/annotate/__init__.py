"""Pictures with their labels on them: files, videos, a window."""
