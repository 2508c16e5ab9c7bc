from __future__ import annotations

import pytest

from mmrag.search.language import foreign_language

ENGLISH = [
    "con artist", "dan brown", "met gala", "uno card game", "mit campus", "big sur",
    "a dog on a beach", "red car", "motorcycle", "two men are playing guitar", "Los Angeles at night", "la la land",
    "Eiffel tower in Paris", "UN headquarters", "Café de Flore", "El Capitan", "2019", "☀️", "dog",
    "a man in a kayak on the lake", "St. Petersburg", "jalapeño",
    "a sign that says ПРИВЕТ on a wall", "de niro in taxi driver",
]  # fmt: skip
FOREIGN = {
    "ein Hund am Strand": "German",
    "der Mann mit dem Hut": "German",
    "un chien sur la plage": "French",
    "un perro en la playa": "Spanish",
    "un cane sulla spiaggia": "Italian",
    "um cachorro na praia": "Portuguese",
    "een hond op het strand": "Dutch",
    "en hund och en katt": "Swedish",
    "海滩上的狗": "Chinese",
    "собака на пляже": "Russian",
    "ビーチの犬": "Japanese",
    "해변의 개": "Korean",
    "كلب على الشاطئ": "Arabic",
    "σκύλος στην παραλία": "Greek",
}


@pytest.mark.parametrize("text", ENGLISH)
def test_english_passes(text):
    assert foreign_language(text, ["en"]) is None


@pytest.mark.parametrize(("text", "language"), FOREIGN.items())
def test_other_languages_are_named(text, language):
    assert language in foreign_language(text, ["en"])


def test_a_language_on_the_card_passes():
    assert foreign_language("海滩上的狗", ["en", "zh"]) is None
    assert foreign_language("ein Hund und eine Katze", ["en", "de"]) is None
