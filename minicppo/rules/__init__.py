"""The rules as pure PyTorch functions over a batch: position weights, divergences, budgets, masks, weights, loss."""

from minicppo.rules.batch import TokenBatch, TopLogProbs
from minicppo.rules.diagnostics import diagnostics
from minicppo.rules.divergence import DIVERGENCES, token_divergence
from minicppo.rules.hyper import hyper
from minicppo.rules.loss import LOSS_AGG_MODES, GroupAdvantages, aggregate, group_advantages, policy_loss
from minicppo.rules.mask import cppo_mask
from minicppo.rules.methods import FAMILIES, METHODS, Method, get_method, masked_weights, register
from minicppo.rules.outputs import CPPOMask, Reason, TokenWeights
from minicppo.rules.position_weights import position_weights

__all__ = ["DIVERGENCES", "FAMILIES", "LOSS_AGG_MODES", "METHODS", "CPPOMask", "GroupAdvantages", "Method", "Reason"]
__all__ += ["TokenBatch", "TokenWeights", "TopLogProbs", "aggregate", "cppo_mask", "diagnostics", "get_method"]
__all__ += ["group_advantages", "hyper", "masked_weights", "policy_loss", "position_weights", "register"]
__all__ += ["token_divergence"]
