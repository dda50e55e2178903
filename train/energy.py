"""What a training used of electricity, by codecarbon where it is installed."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from m2d_export.errors import first_line


@dataclass
class Energy:
    """kWh and kg of CO2 equivalent, None until measured; ``note`` says by what, or why not."""

    kwh: float | None = None
    co2_kg: float | None = None
    note: str = "not measured: codecarbon is not installed"


@contextlib.contextmanager
def measured() -> Iterator[Energy]:
    """Measure the block; a meter that fails is said in ``note`` and never stops a training."""
    energy = Energy()
    try:
        from codecarbon import EmissionsTracker

        tracker = EmissionsTracker(save_to_file=False, log_level="critical", allow_multiple_runs=True)
        tracker.start()
    except ImportError:
        yield energy
        return
    except Exception as error:  # sensors and the network
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
            energy.note = "codecarbon, an estimate where the machine has no power sensors"
        except Exception as error:
            energy.note = f"not measured: codecarbon failed ({first_line(error)})"
