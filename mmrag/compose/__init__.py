"""Hits → answers: grounded, cited and illustrated text."""
