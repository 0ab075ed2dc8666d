"""Token-mixing layers as exact affine maps of their input tokens.

References:
    [1] Gu & Dao, Mamba, arXiv 2312.00752.
    [2] Dao & Gu, Transformers are SSMs (Mamba-2, state-space duality), arXiv 2405.21060.
    [3] Ali, Zimerman & Wolf, The Hidden Attention of Mamba Models, arXiv 2403.01590.
    [4] Zimerman, Ali & Wolf, A Unified Implicit Attention Formulation, arXiv 2405.16504.
    [5] Pitorro & Treviso, LaTIM, arXiv 2502.15612.
    [6] Kobayashi et al., Attention is Not Only a Weight, arXiv 2004.10102.
    [7] Yang et al., Parallelizing Linear Transformers with the Delta Rule, arXiv 2406.06484.
    [8] Yang, Kautz & Hatamizadeh, Gated Delta Networks, arXiv 2412.06464.
    [9] Kimi Team, Kimi Linear, arXiv 2510.26692.

Glossary (sizes; the same letters everywhere in the code and in shape annotations):
    b  batch                                   L  tokens
    E  model width (hidden size)               D  inner width (channels)
    N  state size per channel                  K  taps of the causal convolution
    H  heads, P head width (D = H·P)           G  groups of B and C (Mamba-2)

Glossary (values; row i is the target, the position that receives; column j the source, the position that gives):
    x  the mixer's input tokens (after the block's norm)   u  W_x x, the scan branch
    a  convolution of u, with its bias                     s  SiLU(a), what the scan consumes
    dt Δ, the step, after bias, softplus and clamp         A, B, C, D  the state-space parameters
    alpha  hidden attention: o = alpha s + D s             g  gate and norm factor, frozen at its forward value
    y  W_o (g o), the mixer's output                       T_ij(x_j)  contribution of source j to target i
    q, k, beta  read vectors, keys and β of the gated delta rule; M is its alpha
    p  attention probabilities, alpha of a softmax layer   W_V  its value projection, which is W_x there
"""
