"""Functional Flax blocks: arrays in, arrays out; no mesh, no config object."""
