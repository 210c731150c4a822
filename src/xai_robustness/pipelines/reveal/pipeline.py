"""Wiring of reveal."""

from kedro.pipeline import Pipeline, node

from xai_robustness.pipelines.reveal.nodes import (
    compare_properties,
    explain_neurons,
    export_virelay,
    find_prototypes,
    lay_out,
    list_suspects,
    order_neurons,
    plot_embedding,
    plot_neurons,
    plot_prototypes,
    plot_transplants,
    reveal_suspects,
    score_suspects,
    synthesize_references,
)
from xai_robustness.pipelines.wiring import stage


def create_pipeline() -> Pipeline:
    """Embed, cluster, rank."""
    return stage(
        "reveal",
        [
            node(
                reveal_suspects,
                ["latents", "params:reveal", "params:seed"],
                ["suspects", "suspect_members", "spectral_embeddings"],
                name="reveal_suspects",
            ),
            node(lay_out, ["spectral_embeddings", "params:reveal", "params:seed"], "embeddings", name="lay_out"),
            node(
                list_suspects,
                [
                    "suspects",
                    "suspect_members",
                    "latents",
                    "classifier",
                    "images_fit",
                    "params:reveal",
                    "params:seed",
                    "params:device",
                ],
                ["suspect_list", "suspect_list_members", "suspect_neurons"],
                name="list_suspects",
            ),
            node(
                plot_transplants,
                [
                    "suspect_list",
                    "suspect_list_members",
                    "latents",
                    "images_fit",
                    "params:reveal",
                    "params:seed",
                ],
                "transplant_figure",
                name="plot_transplants",
            ),
            node(compare_properties, "images_fit", "label_associations", name="compare_properties"),
            node(
                find_prototypes,
                ["latents", "params:reveal", "params:seed"],
                ["prototypes", "prototype_concepts"],
                name="find_prototypes",
            ),
            node(
                plot_prototypes,
                ["prototypes", "prototype_concepts", "images_fit"],
                "prototype_figure",
                name="plot_prototypes",
            ),
            node(
                score_suspects,
                ["suspect_list", "suspect_list_members", "artifact_truth", "latents"],
                "suspect_metrics",
                name="score_suspects",
            ),
            node(
                synthesize_references,
                ["latents", "classifier", "images_fit", "params:reveal", "params:seed", "params:device"],
                "synthetic_references",
                name="synthesize_references",
            ),
            node(
                order_neurons,
                ["latents", "synthetic_references", "params:reveal", "params:seed"],
                ["neuron_ranking", "neuron_references", "spurious_neurons"],
                name="rank_neurons",
            ),
            node(
                explain_neurons,
                [
                    "neuron_ranking",
                    "neuron_references",
                    "spurious_neurons",
                    "latents",
                    "classifier",
                    "images_fit",
                    "params:reveal",
                    "params:device",
                ],
                "neuron_heatmaps",
                name="explain_neurons",
            ),
            node(
                plot_neurons,
                [
                    "neuron_ranking",
                    "neuron_references",
                    "spurious_neurons",
                    "neuron_heatmaps",
                    "synthetic_references",
                    "suspect_list",
                    "suspect_list_members",
                    "latents",
                    "classifier",
                    "images_fit",
                    "params:reveal",
                    "params:device",
                ],
                ["neuron_figure", "glocal_figure"],
                name="plot_neurons",
            ),
            node(
                export_virelay,
                ["suspects", "suspect_members", "latents", "images_fit", "params:reveal", "params:seed"],
                "virelay_project",
                name="export_virelay",
            ),
            node(
                plot_embedding,
                ["suspect_list", "suspect_list_members", "embeddings", "images_fit", "artifact_truth"],
                "embedding_figure",
                name="plot_embedding",
            ),
        ],
    )
