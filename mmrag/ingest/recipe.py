"""How a corpus is stored, as a recipe in ``indexes/`` says."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmrag.errors import RecipeError
from mmrag.models.registry import check_recipe_name
from mmrag.recipe import load_named
from mmrag.sources.limits import MAX_PIXELS
from mmrag.stores.manifest import KEEP_VERSIONS, STAMPS_PER_VERSION
from mmrag.stores.view_settings import ViewSettings


@dataclass(frozen=True)
class SourceOptions:
    """What to leave out and what to refuse; `max_seconds` are for one file."""

    exclude: tuple[str, ...] = ()
    max_pixels: int = MAX_PIXELS
    max_seconds: float = 60.0


@dataclass(frozen=True)
class ModelOptions:
    """Which encoder writes a new index; an existing one keeps its own."""

    name: str = "builtin"


@dataclass(frozen=True)
class StoreOptions:
    """How many rows are committed at once, and how many versions a new index keeps."""

    commit_every: int = 1024
    keep_versions: int = KEEP_VERSIONS


@dataclass(frozen=True)
class EnrichOptions:
    """What models are to say of pictures: which generator writes captions, and whether text in them is read."""

    caption: str | None = None
    ocr: bool = False


@dataclass(frozen=True)
class IndexRecipe:
    """How a corpus is stored, as a recipe in ``indexes/`` says."""

    description: str = ""
    source: SourceOptions = field(default_factory=SourceOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    store: StoreOptions = field(default_factory=StoreOptions)
    view: ViewSettings = field(default_factory=lambda: ViewSettings(kind="auto"))
    enrich: EnrichOptions = field(default_factory=EnrichOptions)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        if min(self.source.max_pixels, self.store.commit_every, self.store.keep_versions) < 1:
            raise RecipeError("max_pixels, commit_every and keep_versions must be at least 1")
        if self.store.commit_every > STAMPS_PER_VERSION:
            raise RecipeError(f"commit_every is at most {STAMPS_PER_VERSION:,}, not {self.store.commit_every:,}")
        if self.source.max_pixels > MAX_PIXELS:
            raise RecipeError(f"max_pixels is at most {MAX_PIXELS:,}, not {self.source.max_pixels:,}")
        if not self.source.max_seconds > 0:  # not `<=`, which nan passes
            raise RecipeError(f"max_seconds is a number above 0, not {self.source.max_seconds:g}")


def load_recipe(recipe: str | IndexRecipe) -> IndexRecipe:
    """Load an index recipe by name or path, in which no server may be named; one that is loaded is given back."""
    if isinstance(recipe, IndexRecipe):
        return recipe
    loaded = load_named("indexes", recipe, IndexRecipe)
    check_recipe_name(loaded.enrich.caption, "--caption")
    return loaded
