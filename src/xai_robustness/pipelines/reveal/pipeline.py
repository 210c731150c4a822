"""Wiring of reveal."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.reveal.nodes import plot_embedding, reveal_suspects, score_suspects
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Embed, cluster, rank."""
    return stage(
        "reveal",
        [
            node(
                reveal_suspects,
                ["latents", "params:reveal", "params:seed"],
                ["suspects", "suspect_members", "embeddings"],
                name="reveal_suspects",
            ),
            node(
                score_suspects,
                ["suspects", "suspect_members", "artifact_truth"],
                "suspect_metrics",
                name="score_suspects",
            ),
            node(
                plot_embedding,
                ["suspects", "suspect_members", "embeddings", "images_fit", "artifact_truth"],
                "embedding_figure",
                name="plot_embedding",
            ),
        ],
    )
