"""Training: from settings and data to a finished run folder."""
