"""d3bed: one deep neural network over a device, edge boxes and a cloud, with exactly the same bits.

A testbed and runtime for D3, "Dynamic DNN Decomposition for Lossless Synergistic Inference"
(ICDCS 2021). `docs/` has the map; `d3bed --help` has the commands.
"""

__version__ = "0.1.0"
