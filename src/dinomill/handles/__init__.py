"""The handles that pass between stages: small typed JSON files that say what lies where, and where it came from.

A handle is the only thing a stage hands on; images, embeddings and weights stay on disk beside it:

    <folder>/handle.json      the handle
    <folder>/…                what it describes

Paths are stored relative to the project's root, so that a handle means the same on every machine. Handles hold no
clock times: the same input and configuration give the same bytes, which is how DVC knows that nothing changed.
"""

from __future__ import annotations

from dinomill.handles.handle import HANDLE_NAME, HEADS_NAME, MACHINE_NAME, RECIPE_NAME, START_NAME, Handle, require
from dinomill.handles.judged import EvaluationHandle, PackageHandle, ProbesHandle, RegistrationHandle, ReportHandle
from dinomill.handles.made import DatasetHandle, ModelHandle, SampleHandle, StudentsHandle

__all__ = [
    "HANDLE_NAME",
    "HEADS_NAME",
    "MACHINE_NAME",
    "RECIPE_NAME",
    "START_NAME",
    "DatasetHandle",
    "EvaluationHandle",
    "Handle",
    "ModelHandle",
    "PackageHandle",
    "ProbesHandle",
    "RegistrationHandle",
    "ReportHandle",
    "SampleHandle",
    "StudentsHandle",
    "require",
]
