"""The ablation studies on vino-tiny: what they are, how they run, what they measured."""
