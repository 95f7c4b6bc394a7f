"""Our server beside those that users would run instead."""
