"""From a model's outputs to samples; the model comes as functions, and no model is known here."""
