"""bitfront fits vision models onto edge devices: model + data + budget in, a Pareto front of verified artifacts out."""

__version__ = "0.1.0"
