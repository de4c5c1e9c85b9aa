"""The two scenes of the `federated` measurement: what central may see, and what stays on phones."""
