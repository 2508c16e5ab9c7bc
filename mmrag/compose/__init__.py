"""Hits → answers: what was found is said in words that cite it, with the pictures that belong to them."""
