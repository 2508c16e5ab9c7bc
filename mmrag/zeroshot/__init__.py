"""Pictures and labels → how probable each label is, without training (zero-shot classification)."""
