"""The proof of residency: nothing of a person is found in what crossed between regions, or in what was logged."""

from infra.local.residency.scan import Leak, ResidencyReport, scan
from infra.local.residency.telemetry import grep_telemetry

__all__ = ["Leak", "ResidencyReport", "grep_telemetry", "scan"]
