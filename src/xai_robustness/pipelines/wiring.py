"""How a stage becomes a Kedro pipeline: a namespace that leaves data set names alone."""

from kedro.pipeline import Node, Pipeline


def stage(name: str, nodes: list[Node]) -> Pipeline:
    """Put the nodes of one stage into the namespace `name`, which kedro-viz shows as one box."""
    return Pipeline(nodes, namespace=name, prefix_datasets_with_namespace=False)
