"""The example workflows: described in `tasks`, built by `graph`, arranged by `layout`, drawn by `frontend`."""
