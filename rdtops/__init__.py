"""rdtops: train RDT on GPU hosts behind a jump host, from the laptop."""

# Nothing of ours is imported here: the GPU host runs rdtops.trainer without Fabric, pluggy or pydantic.
__version__ = "0.1.0"
