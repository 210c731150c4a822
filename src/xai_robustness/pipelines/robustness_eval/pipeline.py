"""Wiring of robustness_eval."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.robustness_eval.nodes import evaluate_corruptions, measure_agreement, plot_robustness
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Predictions and explanations under corruptions, before and after correction."""
    common = ["classifier", "corrected_classifiers", "selection", "images_report"]
    settings = ["params:robustness_eval", "params:seed", "params:device"]
    return stage(
        "robustness_eval",
        [
            node(evaluate_corruptions, common + settings, "corruption_metrics", name="evaluate_corruptions"),
            node(measure_agreement, common + settings, "agreement_metrics", name="measure_agreement"),
            node(
                plot_robustness,
                ["corruption_metrics", "agreement_metrics"],
                ["corruption_figure", "agreement_figure"],
                name="plot_robustness",
            ),
        ],
    )
