"""Items that are known by their ids → how well texts match them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrag.roles import Judgement, Matcher, Scores
from mmrag.search.contents import Contents
from mmrag.search.judge import judge_pairs
from mmrag.search.pipeline import Rerank, feature_cache
from mmrag.search.recall import Found

if TYPE_CHECKING:
    from mmrag.stores.view import View


def match_items(
    texts: Sequence[str], ids: Sequence[str], *, view: View, matcher: Matcher, home: Path, features_folder: Path
) -> Judgement:
    """Judge every text with every item; parameters and result as those of `Index.match`.

    Pictures are read from below `home`, and what the matcher sees in them is kept in `features_folder`.
    """
    refs = view.find("id", list(ids))
    modality = "image" if "image" in matcher.card.modalities else "text"
    records = zip(refs, view.records(refs), strict=True)
    found = [Found(0.0, record, ref) for ref, record in records if record["modality"] == modality]
    pairs = np.array([(text, item) for text in range(len(texts)) for item in range(len(found))]).reshape(-1, 2)
    contents = Contents(matcher, home, feature_cache(Rerank(matcher.card.name), matcher, features_folder))
    judged = judge_pairs(matcher, texts, pairs, contents.blocks(found))
    places = {one.record["id"]: place for place, one in enumerate(found)}
    columns = [places.get(item_id, -1) for item_id in ids]

    def laid_out(scores: Scores) -> Scores:
        unknown = np.full((len(texts), 1), np.nan, dtype=np.float32)
        return np.concatenate([scores.reshape(len(texts), len(found)), unknown], axis=1)[:, columns]

    cosines = None if judged.cosines is None else laid_out(judged.cosines)
    return Judgement(laid_out(judged.logits), laid_out(judged.probabilities), cosines)
