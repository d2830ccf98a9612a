"""A model as one worker of a layout holds it: its stages, its shards, its share of the state."""
