"""Where photos and frames come from: folders, patterns, tables, standard input, videos, cameras."""
