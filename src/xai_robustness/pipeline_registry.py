"""Registered pipelines: the eight stages, in order, and all of them as the default."""

from importlib import import_module

from kedro.pipeline import Pipeline

STAGES = (
    "data_ingest",
    "training",
    "preprocessing",
    "reveal",
    "sample_retrieval",
    "localization",
    "mitigation",
    "robustness_eval",
)


def register_pipelines() -> dict[str, Pipeline]:
    """Name -> pipeline."""
    stages = {name: import_module(f"xai_robustness.pipelines.{name}.pipeline").create_pipeline() for name in STAGES}
    return {**stages, "__default__": sum(stages.values(), Pipeline([]))}
