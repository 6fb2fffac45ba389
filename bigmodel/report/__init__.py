"""Pages and pictures from numbers."""
