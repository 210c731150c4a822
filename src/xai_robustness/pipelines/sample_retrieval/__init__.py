"""The sample_retrieval pipeline."""
