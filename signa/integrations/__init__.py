"""Small bridges to other people's training loops: see docs/integrations.md.

A SignA optimizer is a ``torch.optim.Optimizer``, and what it takes to run under Lightning, Accelerate, the Hugging Face
Trainer and Hydra is in it. The modules here hold what is left; none is imported before it is asked for.
"""
