"""Wiring of robustness_eval."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.robustness_eval import nodes
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Predictions and explanations under corruptions, before and after correction."""
    common = ["classifier", "corrected_classifiers", "selection", "compared_classifiers", "images_report"]
    three_splits = ["images_fit", "images_select", "images_report"]
    training = ["params:comparisons", "params:model", "params:training", "params:seed", "params:device"]
    params, seed, device = "params:robustness_eval", "params:seed", "params:device"
    return stage(
        "robustness_eval",
        [
            node(
                nodes.train_comparisons,
                ["images_fit", "classifier", *training],
                "compared_classifiers",
                name="train_comparisons",
            ),
            node(
                nodes.evaluate_corruptions,
                [*common, params, seed, device],
                ["corruption_metrics", "accuracy_table"],
                name="evaluate_corruptions",
            ),
            node(
                nodes.measure_agreement,
                [*common, params, seed, device],
                ["agreement_metrics", "agreement_samples"],
                name="measure_agreement",
            ),
            node(nodes.measure_attacks, [*common, params, seed, device], "attack_table", name="measure_attacks"),
            node(
                nodes.tabulate_robustness,
                ["accuracy_table", "attack_table", "agreement_samples", seed],
                ["robustness_table", "robustness_figure"],
                name="tabulate_robustness",
            ),
            node(
                nodes.plot_robustness,
                ["corruption_metrics", "agreement_metrics"],
                ["corruption_figure", "agreement_figure"],
                name="plot_robustness",
            ),
            node(nodes.plot_corruptions, ["images_report", params, seed], "corruption_sheet", name="plot_corruptions"),
            node(
                nodes.write_robustness_page,
                [
                    *["params:study", "robustness_table", "robustness_figure"],
                    *["corruption_figure", "agreement_figure", "corruption_sheet"],
                ],
                "robustness_page",
                name="write_robustness_page",
            ),
            node(
                nodes.study_layers,
                ["classifier", "images_report", params, seed, device],
                ["layerwise_metrics", *(f"layerwise_{name}_figure" for name in LAYERWISE)],
                name="study_layers",
            ),
            node(
                nodes.measure_faithfulness,
                ["classifier", "part_classifiers", *three_splits, params, seed, device],
                "faithfulness_metrics",
                name="measure_faithfulness",
            ),
            node(
                nodes.write_corrupted_images,
                ["images_control", "images_select", "images_report", params, seed],
                ["corrupted_images", "medmnist_c"],
                name="write_corrupted_images",
            ),
        ],
    )


LAYERWISE = ("rmse", "severity", "corruption", "layer", "loss")
"""Names of the five plots of the layer-wise study."""
