"""From a response to its reward: what it states, and whether that is right."""
