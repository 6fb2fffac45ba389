"""Checkpoints by Orbax: saved while training goes on, restored onto any mesh, never unsound."""

from bigmodel.checkpoint.checkpoints import Checkpoints, Restored, UnsoundError, warm

__all__ = ["Checkpoints", "Restored", "UnsoundError", "warm"]
