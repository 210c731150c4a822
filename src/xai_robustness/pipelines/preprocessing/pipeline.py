"""Wiring of preprocessing."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.preprocessing.nodes import compute_latents, compute_report_latents
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Compute the latents store in one pass over the data."""
    common = ["params:preprocessing", "params:device"]
    return stage(
        "preprocessing",
        [
            node(compute_latents, ["classifier", "images_fit", *common], "latents", name="compute_latents"),
            node(
                compute_report_latents,
                ["classifier", "images_report", *common],
                "report_latents",
                name="compute_report_latents",
            ),
        ],
    )
