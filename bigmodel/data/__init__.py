"""From a source of documents to the batch of a step: NumPy until the last function.

Once: sources -> tokenizers -> cache. Each step: packing -> text -> pipeline, index arithmetic.
"""
