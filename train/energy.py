"""The electricity that a training uses, measured by codecarbon if it is installed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from m2d_export.errors import first_line


@dataclass
class Energy:
    """kWh and kg of CO2 equivalent, None if not measured; ``note`` says how they were measured, or why not."""

    kwh: float | None = None
    co2_kg: float | None = None
    note: str = "not measured: codecarbon is not installed"


@contextlib.contextmanager
def measure_energy() -> Iterator[Energy]:
    """Measure the block; an error of the meter goes into ``note`` and never stops a training."""
    energy = Energy()
    try:
        from codecarbon import EmissionsTracker

        tracker = EmissionsTracker(save_to_file=False, log_level="critical", allow_multiple_runs=True)
        tracker.start()
    except ImportError:
        yield energy
        return
    except Exception as error:  # errors of sensors and of the network have many types
        energy.note = f"not measured: codecarbon failed ({first_line(error)})"
        yield energy
        return
    try:
        yield energy
    finally:
        try:
            tracker.stop()
            found = tracker.final_emissions_data
            energy.kwh, energy.co2_kg = float(found.energy_consumed), float(found.emissions)
            energy.note = "codecarbon, an estimate if the machine has no power sensors"
        except Exception as error:
            energy.note = f"not measured: codecarbon failed ({first_line(error)})"
