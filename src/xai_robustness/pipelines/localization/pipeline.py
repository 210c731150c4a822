"""Wiring of localization."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.localization.nodes import (
    binarize_heatmaps,
    export_images,
    localize_artifacts,
    score_localization,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Localize artifacts, binarize, score."""
    vector = ["cavs", "chosen_cav"]
    return stage(
        "localization",
        [
            node(
                localize_artifacts,
                ["classifier", "images_fit", *vector, "artifact_labels", "params:localization", "params:device"],
                "artifact_heatmaps",
                name="localize_artifacts",
            ),
            node(
                binarize_heatmaps,
                ["artifact_heatmaps", "params:localization"],
                "predicted_masks",
                name="binarize_heatmaps",
            ),
            node(
                export_images,
                ["artifact_heatmaps", "predicted_masks", "params:localization"],
                "localization_images",
                name="export_images",
            ),
            node(
                score_localization,
                ["classifier", "images_report", *vector, "params:localization", "params:seed", "params:device"],
                ["localization_metrics", "localization_figure"],
                name="score_localization",
            ),
        ],
    )
