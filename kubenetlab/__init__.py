"""kubenetlab: Kubernetes' whole networking model on one Linux machine, made of real kernel objects."""

__version__ = "0.1.0"
