from __future__ import annotations

import pytest

from mmrag.errors import ModelError
from mmrag.models import registry
from mmrag.models.catalogue import did_you_mean, entries, find, full_name
from mmrag.models.needs import needs
from tests.toy import open_toy


def test_short_names_stand_for_full_names():
    assert full_name("clip-b32") == "hf:openai/clip-vit-base-patch32"
    assert full_name("builtin") == "builtin"
    assert full_name("toy:1") == "toy:1"
    assert full_name("nonsense") == "nonsense"
    assert find("hf:openai/clip-vit-base-patch32") is find("clip-b32")
    assert find("nonsense") is None


def test_a_short_name_is_taken_wherever_a_name_is(monkeypatch):
    monkeypatch.setitem(registry._FAMILIES, "hf", lambda reference: open_toy("9"))
    assert registry.load_encoder("clip-b32").card.revision == "9"
    assert registry.absolute_name("clip-b32") == "hf:openai/clip-vit-base-patch32"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("clip-b23", "clip-b32"),
        ("blip-itm", "blip-itm-base"),
        ("hf:openai/clip-vit-bas-patch32", "clip-b32"),
        ("siglip-2-base", "siglip2-base"),
    ],
)
def test_near_names_are_told(wrong, near):
    assert near in did_you_mean(wrong)
    with pytest.raises(ModelError, match=near):
        registry.load_encoder(wrong.replace("hf:", "fh:"))


def test_names_far_off_get_no_advice():
    assert did_you_mean("zzzzzz") == ""


def test_every_entry_makes_sense():
    for name, entry in entries().items():
        family, _, reference = entry.model.partition(":")
        assert entry.name == name
        assert ":" not in name
        assert (family == "builtin") == (entry.megabytes == 0)
        assert (entry.dimension > 0) == ("encoder" in entry.roles)
        assert (entry.max_tokens > 0) == ("text" in entry.modalities)
        assert bool(entry.languages) == ("text" in entry.modalities)
        assert entry.licence
        assert entry.summary.endswith(".")
        if family == "hf":
            assert entry.repository == reference
            assert [need.repository for need in needs(name)] == [reference]


def test_where_weights_are_is_what_the_libraries_say():
    pytest.importorskip("open_clip", reason="needs the torch extra")
    others = [entry for entry in entries().values() if entry.model.partition(":")[0] in ("openclip", "timm")]
    assert len(others) >= 8
    for entry in others:
        assert [need.repository for need in needs(entry.name)] == [entry.repository, *entry.others]


def test_dimensions_are_what_the_libraries_say():
    open_clip = pytest.importorskip("open_clip", reason="needs the torch extra")
    for entry in entries().values():
        family, _, reference = entry.model.partition(":")
        if family == "openclip":
            config = open_clip.get_model_config(reference.partition("/")[0])
            assert config["embed_dim"] == entry.dimension
            assert config["text_cfg"].get("context_length", 77) == entry.max_tokens
