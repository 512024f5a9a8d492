"""Prints the reference values of the losses of embeddings (patches/maker/src/train/contrast.rs).

Run:  pip install sentence-transformers==6.2.0 && python contrast.py
"""

import torch
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, MultipleNegativesRankingLoss


def cosent(cosines, values):
    loss = CoSENTLoss(model=None, scale=20.0, similarity_fct=lambda a, b: torch.tensor(cosines))
    return loss.compute_loss_from_embeddings([torch.zeros(len(values), 1)] * 2, torch.tensor(values)).item()


def info_nce(cosines):
    loss = MultipleNegativesRankingLoss(model=None, scale=20.0, similarity_fct=lambda a, b: torch.tensor(cosines))
    rows, columns = len(cosines), len(cosines[0])
    texts = [torch.zeros(rows, 1), torch.zeros(rows, 1), torch.zeros(columns - rows, 1)]
    return loss.compute_loss_from_embeddings(texts, None).item()


print("CoSENT", cosent([.9, .2, -.4, .5], [4., 2.5, 2.5, 0.]))
print("InfoNCE", info_nce([[.9, .2, .3], [-.4, .5, .45]]))
