"""Arithmetic of the packed engine: K LoRA adapters trained over one frozen base model.

The rows of all adapters go through the base as one batch. Wherever tensors of several adapters
meet, the adapters are a batch dimension (the first one), so no number of one adapter enters
another's result.

Dimension letters, used in the shapes beside tensors throughout the package:

    K   adapters (slots of a pack)
    B   rows per adapter in a batch
    T   tokens per row, right-padded
    M   tokens per adapter in a product: B * T, fewer where rows are laid flat, or N once only
        answer positions are computed
    N   answer tokens per adapter, padded with targets of IGNORED (-100)
    D   model width (hidden size)
    R   LoRA rank of the pack; adapters of lower rank are padded with zeros
    r   LoRA rank of one adapter, r <= R
    n   adapted layers of a fused linear, which read the same input
    P   parameters of one adapter at rank R, as one flat row (see adapters.FlatLayout)
    H   attention heads; H_kv key and value heads; d = head_dim
    V   vocabulary; V_pad: V rounded up to base.HEAD_MULTIPLE

Modules, each importing only those above it:

    families    the architectures that can be packed, as data; imports no torch
    shapes      configurations and layers of them that can be packed; imports no torch
    adapters    adapters as stacks and as flat rows, PEFT's initialization, names and shapes
    linear      product of a frozen linear layer and its adapters, with LoRA dropout
    loss        cross-entropy at the answer tokens, and scores of given answers
    optimizer   AdamW and SGD over flat rows
    base        the frozen weights, read from a transformers model
    rows        where tokens lie when rows are laid flat: no padding, the head that all share once
    forward     the transformer blocks as functions over the frozen weights
    flat        the transformer over rows laid flat
    inputs      the input of a training step, padded or flat
    decode      teacher-forced scores and greedy decoding
    kernels     Triton kernels that replace functions of forward, loss and optimizer on a GPU
    step        one training step of a pack; a CUDA graph on a GPU
"""
