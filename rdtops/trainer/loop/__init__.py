"""What a training does around its steps: inputs, checkpoints, validation, metrics, failures."""
