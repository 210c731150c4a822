"""Wiring of preprocessing."""

from kedro.pipeline import Node, Pipeline, node

from xai_robustness.hooks.plan import MEASURES_DEVICE
from xai_robustness.pipelines.preprocessing.nodes import (
    compute_attributions,
    compute_latents,
    compute_report_latents,
    export_attributions,
    plot_attributions,
    probe_batch_sizes,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Compute the latents store in one pass over the data, and the attribution set where one is asked for."""
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
            *attribution_nodes(),
        ],
    )


def attribution_nodes() -> list[Node]:
    """The attribution set: batch sizes, the set, its gallery and its export."""
    images = ["images_fit", "images_report", "params:attribution_sets"]
    run = ["params:seed", "params:device"]
    return [
        node(
            probe_batch_sizes,
            ["classifier", *images, "params:preflight", *run],
            "batch_sizes",
            name="probe_batch_sizes",
            tags=MEASURES_DEVICE,
        ),
        node(
            compute_attributions,
            ["classifier", "part_classifiers", *images, "batch_sizes", *run],
            "attribution_set",
            name="compute_attributions",
        ),
        node(plot_attributions, "attribution_set", "attribution_gallery", name="plot_attributions"),
        node(
            export_attributions,
            ["attribution_set", "params:attribution_sets"],
            "attribution_export",
            name="export_attributions",
        ),
    ]
