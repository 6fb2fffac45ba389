"""Checkpoints by Orbax: saved while training goes on, restored onto any mesh, never unsound."""

from bigmodel.checkpoint.checkpoints import Checkpoints, Restored, UnsoundError
from bigmodel.checkpoint.local import SaveError
from bigmodel.checkpoint.tiers import Tiers

__all__ = ["Checkpoints", "Restored", "SaveError", "Tiers", "UnsoundError"]
