"""The subcommands of `vino`: one module each, with `add_arguments(parser)` and `run(arguments) -> exit status`."""
