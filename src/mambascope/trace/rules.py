"""Which propagation rules a backward pass follows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PropagationRules:
    """Which parts of a model are frozen at their forward values; by default none, which gives the true gradient.

    Attributes:
        silu: Activations use their secant f(a)/a, such as σ(a) of the SiLU, instead of their derivative.
        scan: What mixes or weighs tokens is constant: Δ, B and C of a scan, queries, keys, strengths and decays of a
            delta rule, sigmoids, and the choice and weights of experts.
        gate: Each branch of a product gets an equal share of the gradient.
        norm: The statistics of norms are constants.
        softmax: The probabilities of softmax attention are constants.
        gamma: γ of the generalised LRP-γ rule in the linear and convolution layers of the mixers, and in the
            convolution that makes a picture's patches; 0 turns the rule off.
    """

    silu: bool = False
    scan: bool = False
    gate: bool = False
    norm: bool = False
    softmax: bool = False
    gamma: float = 0.0

    @property
    def conserve(self) -> bool:
        """Whether relevance adds up to the readout: all rules but one are on, and what softmax loses is a term."""
        return self.silu and self.scan and self.gate and self.norm


#: Nothing frozen: the true gradient.
GRADIENT = PropagationRules()
