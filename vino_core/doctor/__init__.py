"""What `vino doctor` looks at: packages, machine, files, memory. Each can be asked for alone."""
