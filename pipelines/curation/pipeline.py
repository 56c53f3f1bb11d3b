"""pool, seeds, labelled ─► scan ─► gate ─► embeddings ─► duplicates ─► selection ─► curated."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from dinomill.pipelines.curation import nodes


def create_pipeline() -> Pipeline:
    """The curation stage."""
    config = "params:curation"
    return Pipeline(
        [
            Node(nodes.scan_files, ["pool", "seeds", "labelled", config], "scan", name="scan_files"),
            Node(nodes.check_quality, ["scan", config], "quality", name="check_quality"),
            Node(nodes.embed_images, ["scan", "quality", config], "embeddings", name="embed_images"),
            Node(nodes.find_duplicates, ["scan", "embeddings", config], "duplicates", name="find_duplicates"),
            Node(nodes.select_images, ["scan", "embeddings", "duplicates", config], "selection", name="select_images"),
            Node(nodes.write_curated, ["scan", "embeddings", "selection", config], "curated", name="write_curated"),
        ]
    )
