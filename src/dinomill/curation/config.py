"""The configuration of the whole stage: one part a step."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dinomill.config import Config
from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.copies.pairs import DeduplicationConfig
from dinomill.curation.embedding.embed import EmbeddingConfig
from dinomill.curation.scan.scan import ScanConfig
from dinomill.curation.selection.balance import BalanceConfig
from dinomill.curation.selection.retrieve import RetrievalConfig
from dinomill.curation.write import WriteConfig
from dinomill.execution.tasks import ExecutionConfig
from dinomill.quality.gate import GateConfig


class CurationFolders(Config):
    """Where each step writes."""

    scan: Path = Field(description="the table of files: hashes and measures")
    quality: Path = Field(description="what the gate on that table found")
    embeddings: Path = Field(description="a row of features for each readable image")
    duplicates: Path = Field(description="which files show the same picture")
    selection: Path = Field(description="one fate a file, and why")
    curated: Path = Field(description="the dataset: shards and manifest")
    work: Path = Field(description="unfinished work and done markers; outside DVC")
    cache: Path | None = Field(
        default=None,
        description="what was seen and embedded of every image, by content, for all environments; null: in `work`",
    )


class CurationConfig(Config):
    """All of curation."""

    folders: CurationFolders
    execution: ExecutionConfig = ExecutionConfig()
    scan: ScanConfig = ScanConfig()
    gate: GateConfig = GateConfig()
    filters: FilterConfig = FilterConfig()
    embedding: EmbeddingConfig = EmbeddingConfig()
    deduplication: DeduplicationConfig = DeduplicationConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    balance: BalanceConfig = BalanceConfig()
    write: WriteConfig = WriteConfig()
    withdrawn: Path | None = Field(
        default=None,
        description="the list of images that are to be in no dataset (`dinomill withdraw`); null: there is none",
    )

    @property
    def work(self) -> Path:
        """The stage's room for unfinished work."""
        return self.folders.work / "curation"

    @property
    def cache(self) -> Path:
        """Where what was made of images is kept, by their content."""
        return self.folders.cache or self.work / "cache"
