from __future__ import annotations

import dataclasses
import importlib.util
import re
import runpy
from pathlib import Path

import pytest

from mmrag.errors import InputError
from mmrag.zeroshot.prompts import choose_templates, clean_labels, fill, folder_labels, read_labels
from tests.toy import ToyEncoder

CARD = ToyEncoder().card


def reading(*languages):
    return dataclasses.replace(CARD, languages=languages)


def test_the_imagenet_templates_are_clips():
    package = importlib.util.find_spec("open_clip")
    if package is None:
        pytest.skip("needs the torch extra")
    lists = runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))  # without torch
    theirs = [template("dog") for template in lists["OPENAI_IMAGENET_TEMPLATES"]]
    assert [fill(one, "dog") for one in choose_templates("imagenet", CARD, ["dog"])] == theirs


def test_the_chinese_templates_are_eighty_in_chinese():
    templates = choose_templates("chinese", CARD, ["狗"])
    assert len(templates) == 80
    assert all(one.count("{}") == 1 and one.endswith("。") and re.search("[\u4e00-\u9fff]", one) for one in templates)


@pytest.mark.parametrize(
    ("languages", "labels", "first"),
    [
        (("en",), ["dog"], "a bad photo of a {}."),
        ((), ["dog"], "a bad photo of a {}."),
        (("zh",), ["狗"], "{}的照片。"),
        (("zh", "en"), ["狗", "猫"], "{}的照片。"),
        (("zh", "en"), ["狗", "cat"], "a bad photo of a {}."),
        (("de",), ["Hund"], "{}"),
    ],
)
def test_templates_suit_the_languages_of_model_and_labels(languages, labels, first):
    assert choose_templates(None, reading(*languages), labels)[0] == first


def test_templates_of_ones_own(tmp_path):
    file = tmp_path / "mine.txt"
    file.write_text("\ufeff# for plants\na {} in a garden\n\n{}, in bloom\n", encoding="utf-8")
    assert choose_templates(str(file), CARD, ["rose"]) == ("a {} in a garden", "{}, in bloom")
    assert choose_templates(["{}!"], CARD, ["rose"]) == ("{}!",)
    assert choose_templates("plain", CARD, ["rose"]) == ("{}",)
    assert fill("{}, a {x} of {}", "a {0} b") == "a {0} b, a {x} of a {0} b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a photo\n", "there is 'a photo'; a template has {}"),
        ("# none\n", "there are none"),
        (b"\xff{}", "cannot be read"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path, content, message):
    file = tmp_path / "mine.txt"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=re.escape(message)):
        choose_templates(str(file), CARD, ["rose"])
    with pytest.raises(InputError, match=r"no templates 'imagnet'; give imagenet, chinese, plain or a file"):
        choose_templates("imagnet", CARD, ["rose"])


def test_labels(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("cat\n\n  a red car \n", encoding="utf-8")
    assert read_labels(file) == ("cat", "a red car")
    assert folder_labels(["x/red_car/1.png", "x/cat/2.png", "x/cat/3.png"]) == ("cat", "red car")
    for labels, message in (
        (["cat"], "there is only 'cat'"),
        ([" "], "there is none"),
        (["cat", "dog", "cat "], "'cat' is there twice"),
        ("cat,dog", r"labels are a list; put them into one: \['cat', 'dog'\]"),
    ):
        with pytest.raises(InputError, match=message):
            clean_labels(labels)
    with pytest.raises(InputError, match="there is no file of labels"):
        read_labels(tmp_path / "none.txt")
