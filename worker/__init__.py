"""Sluice's workers: one engine each."""
