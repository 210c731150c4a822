"""Wiring of training."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.training.nodes import (
    evaluate_classifier,
    plot_training,
    train_classifier,
    train_part_classifiers,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Train the classifier and evaluate it."""
    return stage(
        "training",
        [
            node(
                train_classifier,
                ["images_fit", "params:model", "params:training", "params:seed", "params:device"],
                "classifier",
                name="train_classifier",
            ),
            node(
                train_part_classifiers,
                ["images_fit", "params:model", "params:training", "params:parts", "params:seed", "params:device"],
                "part_classifiers",
                name="train_part_classifiers",
            ),
            node(
                evaluate_classifier,
                ["classifier", "images_fit", "images_select", "images_report", "params:seed", "params:device"],
                "classifier_metrics",
                name="evaluate_classifier",
            ),
            node(plot_training, "classifier", ["training_history", "training_curves"], name="plot_training"),
        ],
    )
