"""The Try page: what adapters answer to typed words and prompts."""
