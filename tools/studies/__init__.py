"""The ablation studies on the miniatures: what they are, how they run, what they measured."""
