"""What tasks are to each other: how their modalities interact, which belong together, what they give one another."""
