"""Which model format fits which cards, and how fast it could be: arithmetic on a model's config.json."""
