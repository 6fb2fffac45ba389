"""What a run would cost on hardware that is not here: compile it, read the program, search layouts."""
