"""Policies for robots: the actor as ONNX and TorchScript, proven equal to ``predict``."""

from sb3_strl.export.metadata import package_versions
from sb3_strl.export.module import Deployment, ExportedPolicy
from sb3_strl.export.policy import ExportReport, export_policy
from sb3_strl.export.proof import Parity

__all__ = [
    "Deployment",
    "ExportReport",
    "ExportedPolicy",
    "Parity",
    "export_policy",
    "package_versions",
]
