"""The inner loop of LSTM, GRU and RNN: same maths and weights as torch's modules, fused per device."""

from lstm.kernels.dispatch import describe as describe
from lstm.kernels.dispatch import mixed_precision as mixed_precision
from lstm.kernels.dispatch import using as using
from lstm.kernels.library import shares_threads as shares_threads
from lstm.kernels.modules import GRU as GRU
from lstm.kernels.modules import LSTM as LSTM
from lstm.kernels.modules import RNN as RNN
from lstm.kernels.native import set_threads as set_threads
from lstm.kernels.trace import Trace as Trace
from lstm.kernels.trace import tracing as tracing
