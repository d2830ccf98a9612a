from support_lab import lab

__all__ = ["lab"]
