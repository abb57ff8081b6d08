"""The example workflows: told in `vino` and `vogue`, made by `build`, arranged by `layout`, drawn by `frontend`."""
