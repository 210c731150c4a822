"""The eight pipelines: plain nodes, wired by data set names."""
