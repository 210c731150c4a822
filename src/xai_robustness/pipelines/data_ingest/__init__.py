"""The data_ingest pipeline."""
