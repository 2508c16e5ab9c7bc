"""Files → items: walking folders, reading pictures safely, reading pairs of pictures and words."""
