"""Wiring of sample_retrieval."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.sample_retrieval.nodes import (
    choose_vector,
    fit_concept_vectors,
    measure_effort,
    plot_retrieval,
    propagate_labels,
    propose_next,
    review_samples,
    score_samples,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Review suspects, refine labels, fit concept vectors, score samples."""
    return stage(
        "sample_retrieval",
        [
            node(
                review_samples,
                [
                    "suspect_list",
                    "suspect_list_members",
                    "latents",
                    "artifact_truth",
                    "params:sample_retrieval",
                    "params:seed",
                ],
                "reviewed_labels",
                name="review_suspects",
            ),
            node(
                propagate_labels,
                [
                    "reviewed_labels",
                    "suspect_list",
                    "suspect_list_members",
                    "latents",
                    "artifact_truth",
                    "params:sample_retrieval",
                ],
                "artifact_labels",
                name="refine_labels",
            ),
            node(
                propose_next,
                ["artifact_labels", "suspect_list", "suspect_list_members", "latents", "params:sample_retrieval"],
                "proposed_samples",
                name="propose_samples",
            ),
            node(
                measure_effort,
                [
                    "suspect_list",
                    "suspect_list_members",
                    "latents",
                    "report_latents",
                    "artifact_truth",
                    "images_report",
                    "params:sample_retrieval",
                    "params:seed",
                ],
                ["label_curves", "label_effort", "label_effort_figure"],
                name="measure_effort",
            ),
            node(
                fit_concept_vectors,
                ["artifact_labels", "latents", "params:sample_retrieval", "params:study", "params:seed"],
                "cavs",
                name="fit_cavs",
            ),
            node(
                choose_vector,
                ["latents", "cavs", "artifact_labels", "params:seed"],
                "chosen_cav",
                name="choose_cav",
            ),
            node(
                score_samples,
                [
                    "latents",
                    "report_latents",
                    "cavs",
                    "artifact_labels",
                    "images_report",
                    "params:sample_retrieval",
                    "params:seed",
                ],
                ["bias_scores", "retrieval_metrics"],
                name="score_samples",
            ),
            node(
                plot_retrieval,
                ["bias_scores", "retrieval_metrics", "chosen_cav", "images_report"],
                ["bias_score_figure", "retrieved_figure", "retrieval_figure"],
                name="plot_retrieval",
            ),
        ],
    )
