"""Networks: pictures and words → vectors. One file per family, and the cards that describe models."""
