"""Wiring of mitigation."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.mitigation.nodes import (
    correct_models,
    evaluate_corrections,
    measure_relevance,
    measure_tcav,
    plot_before_after,
    plot_corrections,
    reveal_again,
    select_correction,
    state_verdict,
    write_page,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Correct models, evaluate and select them, state the verdict."""
    settings = ["params:mitigation", "params:seed", "params:device"]
    models = ["classifier", "corrected_classifiers"]
    return stage(
        "mitigation",
        [
            node(
                correct_models,
                ["classifier", "images_fit", "cavs", "predicted_masks", "artifact_masks", "artifact_labels", *settings],
                "corrected_classifiers",
                name="correct_models",
            ),
            node(
                evaluate_corrections,
                [*models, "images_select", "images_report", *settings],
                "correction_metrics",
                name="evaluate_corrections",
            ),
            node(select_correction, ["correction_metrics", "params:mitigation"], "selection", name="select_correction"),
            node(
                measure_relevance,
                [*models, "selection", "images_report", "params:seed", "params:device"],
                "relevance_metrics",
                name="measure_relevance",
            ),
            node(
                measure_tcav,
                [*models, "selection", "images_fit", "images_report", "artifact_labels", *settings],
                "tcav_metrics",
                name="measure_tcav",
            ),
            node(
                reveal_again,
                [
                    *[*models, "selection", "images_fit", "artifact_labels"],
                    *["params:mitigation", "params:reveal", "params:seed", "params:device"],
                ],
                "suspicion",
                name="reveal_again",
            ),
            node(
                state_verdict,
                [
                    *["correction_metrics", "relevance_metrics", "tcav_metrics", "suspicion", "selection"],
                    *[*models, "images_report", "params:artifact", "params:mitigation", "params:seed"],
                ],
                "verdict",
                name="state_verdict",
            ),
            node(
                plot_corrections,
                ["correction_metrics", "selection", "params:mitigation"],
                ["correction_figure", "tradeoff_figure"],
                name="plot_corrections",
            ),
            node(
                plot_before_after,
                [*models, "selection", "images_report", "params:device"],
                "before_after_figure",
                name="plot_before_after",
            ),
            node(
                write_page,
                [
                    *["params:study", "verdict", "selection"],
                    *["correction_metrics", "relevance_metrics", "tcav_metrics"],
                    *["correction_figure", "tradeoff_figure", "before_after_figure"],
                    *["contact_sheet", "embedding_figure", "localization_figure"],
                ],
                "verdict_page",
                name="write_page",
            ),
        ],
    )
