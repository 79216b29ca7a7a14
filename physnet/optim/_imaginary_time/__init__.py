"""Imaginary-time evolution, and the rows of the metrics that it takes."""

from physnet.optim._imaginary_time._categorical import categorical_rows as categorical_rows
from physnet.optim._imaginary_time._likelihood import likelihood_rows as likelihood_rows
from physnet.optim._imaginary_time._rows import Products as Products
from physnet.optim._imaginary_time._rows import Rows as Rows
from physnet.optim._imaginary_time._transform import ImaginaryTimeState as ImaginaryTimeState
from physnet.optim._imaginary_time._transform import imaginary_time as imaginary_time
from physnet.optim._imaginary_time._wavefunction import local_energies as local_energies
from physnet.optim._imaginary_time._wavefunction import wavefunction_rows as wavefunction_rows
