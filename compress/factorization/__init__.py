"""Low rank: a large layer becomes two thin ones."""

from compress.factorization.low_rank import FactorizeLinear as FactorizeLinear
from compress.factorization.low_rank import factorizable as factorizable
from compress.factorization.spectrum import Spectrum as Spectrum
from compress.factorization.spectrum import spectra as spectra
