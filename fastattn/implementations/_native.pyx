# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Binding over src_cpp: passes addresses and strides on, and imports nothing of the package.

It trusts its caller, `fastattn.implementations.cython_`: shapes, types and ranges were
checked by `normalise` and `configure`.  It needs no GIL: a `Runner` is only read once it is made.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc

cimport numpy as cnp

cnp.import_array()


cdef extern from "Python.h" nogil:
    bint Py_IsInitialized()


OPERATIONS = {"forward": <int> Operation.kForward}
ISAS = tuple(isa(i).name.decode() for i in range(isa_count()))  # rows of the table, best first
REFUSED = "the operating system does not let this process use AMX tiles"


def absent(int index):
    """Why the build or the CPU does not have an ISA row; None if both have it."""
    if isa(index).kernels == NULL:
        return isa(index).refusal.decode()
    return None if lacking(index) == NULL else f"this CPU lacks {lacking(index).decode()}"


def missing(int index):
    """Why an ISA row cannot run here; None if it can.  May ask the operating system for tiles."""
    return absent(index) or (None if permitted(index) else REFUSED)


def preferred(int index):
    """Whether an ISA row can be the best for a call on this CPU, or is only used if named."""
    return native_preferred(index)


def has_kernel(int index, str operation, int dtype):
    """Whether an ISA row has a kernel for an operation and data type."""
    return kernel(index, <Operation> <int> OPERATIONS[operation], <DType> dtype) != NULL


def best_isa(str operation, int dtype, rows, keys, dim, dim_v, bint ask):
    """Name of the best ISA row for such a call, and why better ones are not chosen.

    rows: queries of all heads that share a key head.  ask: whether a row that needs a permission
    has to get it; else the operating system is not asked.
    """
    cdef Extents extents
    cdef Suits found
    cdef int index
    extents.rows, extents.keys, extents.dim, extents.dim_v = rows, keys, dim, dim_v
    reasons = []
    for index in range(isa_count()):
        found = suits(index, <Operation> <int> OPERATIONS[operation], <DType> dtype, extents)
        if found == Suits.kSlowHere:
            reasons.append(f"{ISAS[index]} would be slower on this processor")
        elif found == Suits.kSmallCall:
            reasons.append(f"{ISAS[index]} is for larger calls")
        elif found == Suits.kYes:
            if not ask or permitted(index):
                return ISAS[index], reasons
            reasons.append(f"{ISAS[index]}: {REFUSED}")
    raise AssertionError("the baseline has all kernels")


def tile(int index, str operation, int dtype):
    """Sizes that an ISA row's kernel works in: see `Kernel` in abi.hpp."""
    cdef const Kernel* found = kernel(index, <Operation> <int> OPERATIONS[operation], <DType> dtype)
    return (
        found.lanes, found.tile_keys, found.tile_rows, found.block_keys, found.chunk, found.packed
    )


OPENMP = has_openmp()  # whether this build has it
FEW_ITEMS = kFewItems


def work_items(int64_t batch, int64_t heads_kv, int64_t rows, int64_t keys, int64_t block_q,
               int64_t keys_per_split, int threads):
    """Number of work items of a call whose key heads have so many rows and keys."""
    cdef Extent extent
    extent.batch, extent.heads_kv, extent.rows, extent.keys = batch, heads_kv, rows, keys
    extent.block_q, extent.keys_per_split, extent.threads = block_q, keys_per_split, threads
    return count_work_items(extent)


THREADINGS = {
    "pool": <int> Threading.kPool,
    "openmp": <int> Threading.kOpenMP,
    "host": <int> Threading.kHost,
}


def use_host(size_t parallel, size_t thread_number):
    """Addresses of the OpenMP runtime that ``"host"`` means: GOMP_parallel, omp_get_thread_num."""
    native_use_host(<void*> parallel, <void*> thread_number)


cdef Threads threads_of(int count, int cpus, str threading):
    cdef Threads threads
    threads.count, threads.cpus = count, cpus
    threads.threading = <Threading> <int> THREADINGS[threading]
    return threads


def roofline(int index, int threads, int cpus, str threading, int repetitions, double window_seconds,
             int64_t stream_bytes, int64_t cached_bytes):
    """Limits of an ISA row, per second: flops in float32, in float64 and of bfloat16 products (0:
    it has none), bytes streamed and cached.

    None if that many threads cannot be started.
    """
    cdef Probing how
    cdef Roofline found
    cdef Probed status
    how.threads = threads_of(threads, cpus, threading)
    how.repetitions, how.window_seconds = repetitions, window_seconds
    how.stream_bytes, how.cached_bytes = stream_bytes, cached_bytes
    with nogil:
        status = measure_roofline(how, isa(index).kernels[0], found)
    if status == Probed.kNoThreads:
        return None
    if status == Probed.kNoMemory:
        raise MemoryError(f"fastattn: {stream_bytes} bytes to stream cannot be allocated")
    assert status == Probed.kOk, "a probe computed a wrong sum"
    return (
        found.flops32, found.flops64, found.bfloat16_flops, found.stream_bytes, found.cached_bytes
    )


cdef class Runner:
    """The static part of a call: spec, configuration and instruction set."""

    cdef Call call
    cdef const KernelSet* kernels
    cdef int64_t batch_shape[64]

    def __init__(self, int index, int dtype, batch_shape, heads_q, heads_kv, length_q, length_k,
                 dim, dim_v, double scale, double score_factor, double softcap, left, right,
                 block_q, block_k, keys_per_split, int threads, int cpus, str threading):
        cdef int axis
        self.kernels = isa(index).kernels
        for axis in range(len(batch_shape)):
            self.batch_shape[axis] = batch_shape[axis]
        self.call.batch_shape = self.batch_shape
        self.call.batch_axes = len(batch_shape)
        self.call.type = <DType> dtype
        self.call.heads_q, self.call.heads_kv = heads_q, heads_kv
        self.call.length_q, self.call.length_k = length_q, length_k
        self.call.dim, self.call.dim_v = dim, dim_v
        self.call.scale, self.call.score_factor, self.call.softcap = scale, score_factor, softcap
        self.call.left = kUnlimited if left is None else left
        self.call.right = kUnlimited if right is None else right
        self.call.block_q, self.call.block_k = block_q, block_k
        self.call.keys_per_split = keys_per_split
        self.call.threads = threads_of(threads, cpus, threading)

    def run(self, cnp.ndarray q not None, cnp.ndarray k not None, cnp.ndarray v not None,
            cnp.ndarray out not None, cnp.ndarray lse, cnp.ndarray mask,
            cnp.ndarray offsets, cnp.ndarray lengths, cnp.ndarray sinks):
        """Compute one call.

        q, k, v, out, lse, mask: as in `Problem`; offsets, lengths: C-contiguous int64
        (*batch) or None; sinks: C-contiguous float64 (Hq,) or None.
        """
        cdef Call call = self.call
        cdef int64_t strides[6][64]
        cdef Status status
        self._fill(&call.q, strides[0], q, 2)
        self._fill(&call.k, strides[1], k, 2)
        self._fill(&call.v, strides[2], v, 2)
        self._fill(&call.out, strides[3], out, 2)
        if lse is not None:
            self._fill(&call.lse, strides[4], lse, 1)
        if mask is not None:
            self._fill(&call.mask, strides[5], mask, 2)
            call.mask_type = self._mask_type(mask)
        if offsets is not None:
            call.offsets = <const int64_t*> cnp.PyArray_DATA(offsets)
        if lengths is not None:
            call.lengths = <const int64_t*> cnp.PyArray_DATA(lengths)
        if sinks is not None:
            call.sinks = <const double*> cnp.PyArray_DATA(sinks)
        with nogil:
            status = attention(call, self.kernels[0])
        if status == Status.kNoMemory:
            raise MemoryError("fastattn: scratch memory for the call cannot be allocated; "
                              "a smaller Config.block_q or Config.block_k, or a larger "
                              "Config.keys_per_split, takes less")

    cdef DType _mask_type(self, cnp.ndarray mask) noexcept:
        """Boolean, float32, or the type of the call: `normalise` accepts no other."""
        cdef int number = cnp.PyArray_TYPE(mask)
        if number == cnp.NPY_BOOL:
            return DType.kBool
        return DType.kFloat32 if number == cnp.NPY_FLOAT else self.call.type

    cdef void _fill(self, Array* to, int64_t* batch_strides, cnp.ndarray array, int inner) noexcept:
        """Fill in address and strides of `array`, whose last `inner` axes follow the head's."""
        cdef int rank = cnp.PyArray_NDIM(array)
        cdef cnp.npy_intp* strides = cnp.PyArray_STRIDES(array)
        cdef cnp.npy_intp* shape = cnp.PyArray_DIMS(array)
        cdef int axes = <int> self.call.batch_axes
        cdef int axis, own
        to.data = <char*> cnp.PyArray_DATA(array)
        to.row = strides[rank - inner]
        to.column = strides[rank - 1] if inner == 2 else 0
        to.head = strides[rank - inner - 1] if rank > inner else 0
        # The array's own batch axes are the last ones; it broadcasts over the others.
        for axis in range(axes):
            own = axis - axes + rank - inner - 1
            batch_strides[axis] = strides[own] if own >= 0 and shape[own] != 1 else 0
        to.batch_strides = batch_strides


cdef class Library:
    """Shares memory with another library's arrays, by its functions for DLPack.

    exchange: the capsule ``__dlpack_c_exchange_api__`` of their type; ValueError if it cannot be
    used.  bfloat16: the number of NumPy's data type of that name, or -1.
    """

    cdef const Exchange* exchange
    cdef int bfloat16

    def __init__(self, exchange, int bfloat16):
        self.exchange = known(PyCapsule_GetPointer(exchange, "dlpack_exchange_api"))
        self.bfloat16 = bfloat16
        if self.exchange == NULL:
            raise ValueError("a version of DLPack that is not known here")

    def to_ndarray(self, array):
        """The same memory as an ndarray, or None if NumPy has no such array.

        What the library raises, such as for an array without memory, is passed on.
        """
        cdef Tensor tensor
        cdef int axis, number
        cdef cnp.ndarray made
        self.exchange.read(<void*> array, &tensor)
        number = self._number(tensor.code * 256 + tensor.bits)
        if number < 0 or tensor.device != kCpu or tensor.data == NULL or tensor.axes > kMostAxes:
            return None
        made = cnp.PyArray_SimpleNewFromData(
            tensor.axes, <cnp.npy_intp*> tensor.shape, number, tensor.data + tensor.byte_offset)
        for axis in range(tensor.axes):
            cnp.PyArray_STRIDES(made)[axis] = tensor.strides[axis] * (tensor.bits // 8)
        cnp.PyArray_UpdateFlags(made, cnp.NPY_ARRAY_UPDATE_ALL)
        cnp.set_array_base(made, array)
        return made

    def from_ndarray(self, cnp.ndarray array not None):
        """A floating ndarray, whose strides are whole elements, as an array of the library."""
        cdef int axes = cnp.PyArray_NDIM(array)
        cdef int64_t size = cnp.PyArray_ITEMSIZE(array)
        cdef int axis, kind = self._kind(cnp.PyArray_TYPE(array))
        cdef PyObject* made = NULL
        cdef Managed* managed = <Managed*> malloc(sizeof(Managed) + 2 * axes * sizeof(int64_t))
        if managed == NULL:
            raise MemoryError("fastattn: the result cannot be allocated")
        managed.major, managed.minor, managed.flags = kMajor, kMinor, 0
        managed.owner, managed.release = <void*> array, release
        managed.tensor.data, managed.tensor.byte_offset = cnp.PyArray_BYTES(array), 0
        managed.tensor.device, managed.tensor.device_number = kCpu, 0
        managed.tensor.code, managed.tensor.bits, managed.tensor.lanes = kind // 256, kind % 256, 1
        managed.tensor.axes = axes
        managed.tensor.shape = <int64_t*> (managed + 1)
        managed.tensor.strides = managed.tensor.shape + axes
        for axis in range(axes):
            managed.tensor.shape[axis] = cnp.PyArray_DIM(array, axis)
            managed.tensor.strides[axis] = cnp.PyArray_STRIDE(array, axis) // size
        Py_INCREF(array)
        self.exchange.make(managed, &made)  # which the library releases
        result = <object> made
        Py_DECREF(result)
        return result

    cdef int _number(self, int kind) noexcept:
        """NumPy's number of a data type; -1 if it has none."""
        if kind == kFloat32:
            return cnp.NPY_FLOAT32
        if kind == kBFloat16:
            return self.bfloat16
        if kind == kFloat16:
            return cnp.NPY_FLOAT16
        if kind == kFloat64:
            return cnp.NPY_FLOAT64
        if kind == kBool:
            return cnp.NPY_BOOL
        return cnp.NPY_INT64 if kind == kInt64 else cnp.NPY_INT32 if kind == kInt32 else -1

    cdef int _kind(self, int number) noexcept:
        """DLPack's code and bits of a floating data type."""
        if number == cnp.NPY_FLOAT32:
            return kFloat32
        if number == cnp.NPY_FLOAT64:
            return kFloat64
        return kFloat16 if number == cnp.NPY_FLOAT16 else kBFloat16


cdef void release(Managed* managed) noexcept nogil:
    """Called by whichever thread drops the last array on that memory, at exit too."""
    if Py_IsInitialized():
        with gil:
            Py_DECREF(<object> managed.owner)
    free(managed)
