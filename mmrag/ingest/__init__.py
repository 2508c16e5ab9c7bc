"""Files and items → rows: what has to be done, and doing it with the decoder beside the encoder."""
