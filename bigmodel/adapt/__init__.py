"""Parameters of one model as those of another: grids of positions and patches resized."""
