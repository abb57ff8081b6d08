"""The diffusion transformer: packing of references and target, rotary positions, blocks, model, connectors."""
