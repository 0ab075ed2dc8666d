"""Whole layers by loops."""

import torch

from mambascope.operators import naive
from mambascope.operators.state_space_dual import StateSpaceDual


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


def naive_layer(operator, row, rule="secant"):
    """Return all contributions (L, L, E) and biases (L, E) of one sequence of a batch from the loops of `naive`."""
    scan = operator.scan
    form = naive.state_space_dual_matrix if isinstance(scan, StateSpaceDual) else naive.selective_scan_matrix
    alpha = form(scan.dt[row], scan.A, scan.B[row], scan.C[row])
    alpha = alpha.repeat_interleave(scan.skip.shape[0] // alpha.shape[0], dim=0)
    kept = torch.ones(operator.length, 1) if operator.mask is None else operator.mask[row, :, None].double()
    b_x = 0 if operator.b_x is None else operator.b_x.double()
    full_u = operator.x[row].double() @ operator.W_x.double().t() + b_x
    zero = torch.zeros_like(operator.conv[:, 0])
    conv_bias = zero if operator.conv_bias is None else operator.conv_bias
    a = naive.convolution(full_u, operator.conv, conv_bias)
    constant = naive.convolution(full_u * 0 + b_x, operator.conv, conv_bias)
    skip, gate = scan.skip.double(), operator.gate[row]
    if not kept.all():
        # padding removes s_k after the convolution: the columns k of alpha and D together
        alpha, skip = (alpha + torch.diag_embed(skip[:, None].expand(-1, operator.length))) * kept[:, 0], skip * 0
    u = operator.x[row].double() @ operator.W_x.double().t()
    T = naive.contribution_vectors(alpha, skip, u, operator.conv, a, gate, operator.W_o, rule)
    beta = naive.bias_vectors(alpha, skip, constant, a, gate, operator.W_o, operator.b_o)
    return T, beta
