"""Programs as recorded tensors: what runs a step, or a repeated evaluation, without Pyro."""
