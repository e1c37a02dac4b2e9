"""From a fine-tuned checkpoint to the bundle that flies."""
