"""Wiring of data_ingest."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.data_ingest.nodes import check_leakage, insert_artifacts, load_images, plot_images
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Load images, split samples, insert artifacts."""
    return stage(
        "data_ingest",
        [
            node(load_images, ["params:data", "params:seed"], "raw_images", name="load_images"),
            node(check_leakage, "raw_images", "leakage_report", name="check_leakage"),
            node(
                insert_artifacts,
                ["raw_images", "params:artifact", "params:seed"],
                ["images_fit", "images_select", "images_report", "images_control", "artifact_masks", "artifact_truth"],
                name="insert_artifacts",
            ),
            node(plot_images, "images_report", "contact_sheet", name="plot_images"),
        ],
    )
