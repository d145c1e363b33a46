"""The scheduler's core, pure: facts in, decisions out."""
