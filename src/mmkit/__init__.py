"""mmkit: composable commands for multimodal instruction tuning."""

__version__ = "0.1.0"
