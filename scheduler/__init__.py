"""Sluice's scheduler: who runs, when and where."""
