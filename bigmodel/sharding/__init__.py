"""Where numbers live: the mesh, the rules, and what runs on each shard."""
