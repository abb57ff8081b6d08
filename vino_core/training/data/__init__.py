"""Training data that lies on a disk: folders with a manifest, WebDataset shards, and latents made beforehand."""
