"""Kedro data sets of the catalog."""
