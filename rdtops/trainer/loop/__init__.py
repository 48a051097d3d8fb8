"""The training loop's parts: inputs, checkpoints, validation, metrics, failures."""
