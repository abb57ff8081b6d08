"""From a prompt and its references to the VLM's hidden states: template, visual input, VLM pass, learnable tokens."""
