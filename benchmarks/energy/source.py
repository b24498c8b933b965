"""What the sources of power have in common: their methods, one sample, and which rails add up to a whole board."""

import typing

# A board's rails that add up to all of it; the first entry whose rails exist counts. VDD_IN (TX2, Xavier NX, Orin NX,
# Orin Nano) and POM_5V_IN (Nano) are the whole module, VIN (AGX Thor) the whole developer kit. On AGX Orin the module
# is the sum of three, and VIN_SYS_5V0 contains VDDQ_VDD2_1V8AO (NVIDIA's Jetson Linux guide): rails that are part of
# another one are not added.
_WHOLE_BOARDS = (("VDD_IN",), ("POM_5V_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class Sample(typing.NamedTuple):
    """One reading of a source."""

    rails: typing.Mapping[str, float]  # watts now; of a source that counts joules: joules since some earlier moment
    clocks_mhz: typing.Mapping[str, float]  # "cpu" (the fastest core), "gpu", "emc" (memory)
    temperatures_c: typing.Mapping[str, float]


class Source:
    """A source of power. Each kind is a subclass, made with (root, interval_s)."""

    name = ""  # in results
    counts_joules = False  # a sample's rails are joules, not watts
    waits = False  # read() waits for the next sample by itself
    # How long after a change of the load a sample may still show the load before. An INA3221 gives means: in NVIDIA's
    # driver of 64 measurements of 3 channels of 2.2 ms, so that its value renews every 422 ms.
    settle_s = 1.0
    renews_s = 0.422
    problem = ""  # why it cannot be used here; "" if it can
    added: typing.Tuple[str, ...] = ()  # the rails that add up to the whole

    def start(self):
        """Called before the first read."""

    def read(self, slow):
        """Returns a Sample, None where none can be read. slow: with clocks and temperatures, which cost more."""
        raise NotImplementedError

    def stop(self):
        """Called after the last read. May be called any number of times."""

    def failure(self):
        """Returns why there was no sample, "" where the block was too short for one."""
        return ""


def whole_board(names):
    """Returns those of a board's rails that add up to all of it, () for an unknown board."""
    return next((rails for rails in _WHOLE_BOARDS if set(rails) <= set(names)), ())


def real_temperatures(temperatures_c):
    """Leaves out sensors that are off (-256) and the TX2's PMIC, for which L4T R32 says 100 at all times."""
    return {
        name: value
        for name, value in temperatures_c.items()
        if value > -100 and not (name.startswith("PMIC") and value == 100)
    }
