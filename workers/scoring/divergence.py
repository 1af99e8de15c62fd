"""KL divergences between the dense model's beliefs and a candidate's.

Legend: E examples, C choices, N answer tokens of a batch, V vocabulary, K outcomes of a belief.
"""

import numpy as np
import torch


def kl_rows(logp_EC: np.ndarray, logq_EC: np.ndarray) -> np.ndarray:
    """Return KL(p‖q) of each row, in nats; impossible outcomes of p add nothing."""
    with np.errstate(invalid="ignore"):
        terms_EC = np.where(np.isfinite(logp_EC), np.exp(logp_EC) * (logp_EC - logq_EC), 0.0)
    kl_E: np.ndarray = terms_EC.sum(axis=1).clip(min=0.0)
    return kl_E


def coarse_kl(logq_NV: torch.Tensor, logp_NK: np.ndarray, token_NK: np.ndarray) -> np.ndarray:
    """Return the KL in nats over the dense model's top tokens and all others as one."""
    token = torch.from_numpy(token_NK.astype(np.int64)).to(logq_NV.device)
    logq_NK = logq_NV.gather(1, token).double().cpu().numpy()
    return kl_rows(_with_rest(logp_NK.astype(np.float64)), _with_rest(logq_NK))


def _with_rest(logp_NK: np.ndarray) -> np.ndarray:
    rest_N = np.log((1.0 - np.exp(logp_NK).sum(axis=1)).clip(min=1e-12))
    return np.concatenate([logp_NK, rest_N[:, None]], axis=1)
