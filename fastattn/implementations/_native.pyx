# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Binding over src_cpp: passes addresses and strides on, and imports nothing of the package.

It trusts its caller, `fastattn.implementations.cython_`: shapes, types and ranges were
checked by `normalise` and `configure`.  It needs no GIL: a `Runner` is only read once it is made.
"""

from libc.stdint cimport int32_t, int64_t

cimport numpy as cnp

cnp.import_array()


cdef extern from "abi.hpp" namespace "fastattn" nogil:
    cdef enum class DType(int32_t):
        kFloat32
        kFloat64
        kFloat16
        kBFloat16
        kBool

    cdef struct Kernel:
        int32_t lanes
        int32_t tile_keys
        int32_t tile_rows
        int32_t block_keys
        int32_t chunk
        int32_t packed

    cdef enum class Operation(int32_t):
        kForward

    cdef struct Extents:
        int64_t rows, keys, dim, dim_v

    cdef struct KernelSet:
        const char* name

    const int kStorageTypes
    const int64_t kUnlimited


cdef extern from "dispatch.hpp" namespace "fastattn" nogil:
    cdef struct Isa:
        const char* name
        const KernelSet* kernels
        const char* refusal

    int isa_count()
    const Isa& isa(int)
    const char* lacking(int)
    bint permitted(int)
    const Kernel* kernel(int, Operation, DType)
    int native_best_isa "fastattn::best_isa"(Operation, DType, const Extents&)


cdef extern from "threads.hpp" namespace "fastattn" nogil:
    cdef enum class Threading(int32_t):
        kPool
        kOpenMP

    cdef struct Threads:
        int count
        int cpus
        Threading threading

    bint has_openmp()


cdef extern from "schedule.hpp" namespace "fastattn" nogil:
    const int64_t kFewItems

    cdef struct Extent:
        int64_t batch, heads_kv, rows, keys
        int64_t block_q, keys_per_split
        int threads

    int64_t count_work_items "fastattn::work_items"(const Extent&)


cdef extern from "driver.hpp" namespace "fastattn" nogil:
    cdef struct Array:
        char* data
        const int64_t* batch_strides
        int64_t head
        int64_t row
        int64_t column

    cdef struct Call:
        Array q, k, v, out, mask, lse
        const int64_t* offsets
        const int64_t* lengths
        const double* sinks
        const int64_t* batch_shape
        int64_t batch_axes
        DType type
        DType mask_type
        int64_t heads_q, heads_kv, length_q, length_k, dim, dim_v
        double scale, score_factor, softcap
        int64_t left, right
        int64_t block_q, block_k, keys_per_split
        Threads threads

    cdef enum class Status:
        kOk
        kNoMemory

    Status attention(const Call&, const KernelSet&)


cdef extern from "roofline.hpp" namespace "fastattn" nogil:
    cdef struct Probing:
        Threads threads
        int repetitions
        double window_seconds
        int64_t stream_bytes
        int64_t cached_bytes

    cdef struct Roofline:
        double flops32, flops64, bfloat16_flops, stream_bytes, cached_bytes

    cdef enum class Probed:
        kOk
        kNoMemory
        kNoThreads
        kWrongSum

    Probed measure_roofline "fastattn::roofline"(const Probing&, const KernelSet&, Roofline&)


OPERATIONS = {"forward": <int> Operation.kForward}
REFUSED = "the operating system does not let this process use AMX tiles"


def isas():
    """Rows of the ISA table, best first: (name, None or why it cannot run here)."""
    rows = []
    for i in range(isa_count()):
        name = isa(i).name.decode()
        if isa(i).kernels == NULL:
            rows.append((name, isa(i).refusal.decode()))
        elif lacking(i) != NULL:
            rows.append((name, f"this CPU lacks {lacking(i).decode()}"))
        elif not permitted(i):
            rows.append((name, REFUSED))
        else:
            rows.append((name, None))
    return rows


def kernel_types(int index):
    """Codes of the data types for which an ISA row has a kernel, by operation."""
    return {
        name: tuple(
            code for code in range(kStorageTypes)
            if kernel(index, <Operation> <int> operation, <DType> <int> code) != NULL
        )
        for name, operation in OPERATIONS.items()
    }


def best_isa(str operation, int dtype, rows, keys, dim, dim_v):
    """Best ISA row that can run here and computes such a call; None if there is none.

    rows: queries of all heads that share a key head.
    """
    cdef Extents extents
    cdef int index
    extents.rows, extents.keys, extents.dim, extents.dim_v = rows, keys, dim, dim_v
    index = native_best_isa(<Operation> <int> OPERATIONS[operation], <DType> dtype, extents)
    return None if index < 0 else index


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


cdef Threads threads_of(int count, int cpus, bint openmp) noexcept:
    cdef Threads threads
    threads.count, threads.cpus = count, cpus
    threads.threading = Threading.kOpenMP if openmp else Threading.kPool
    return threads


def roofline(int index, int threads, int cpus, bint openmp, int repetitions, double window_seconds,
             int64_t stream_bytes, int64_t cached_bytes):
    """Limits of an ISA row, per second: flops in float32, in float64 and of bfloat16 products (0:
    it has none), bytes streamed and cached.

    None if that many threads cannot be started.
    """
    cdef Probing how
    cdef Roofline found
    cdef Probed status
    how.threads = threads_of(threads, cpus, openmp)
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
                 block_q, block_k, keys_per_split, int threads, int cpus, bint openmp):
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
        self.call.threads = threads_of(threads, cpus, openmp)

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
