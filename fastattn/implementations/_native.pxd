# Declarations of what the binding uses of src_cpp.

from cpython.ref cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


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

    const int64_t kUnlimited


cdef extern from "dispatch.hpp" namespace "fastattn" nogil:
    cdef struct Isa:
        const char* name
        const KernelSet* kernels
        const char* refusal

    int isa_count()
    const Isa& isa(int)
    const char* lacking(int)
    bint native_preferred "fastattn::preferred"(int)
    bint permitted(int)
    const Kernel* kernel(int, Operation, DType)

    cdef enum class Suits(int32_t):
        kYes
        kNoKernel
        kLacking
        kSlowHere
        kSmallCall

    Suits suits(int, Operation, DType, const Extents&)


cdef extern from "threads.hpp" namespace "fastattn" nogil:
    cdef enum class Threading(int32_t):
        kPool
        kOpenMP
        kHost

    cdef struct Threads:
        int count
        int cpus
        Threading threading

    bint has_openmp()
    void native_use_host "fastattn::use_host"(void* parallel, void* thread_number)


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


cdef extern from "dlpack.hpp" namespace "fastattn::dlpack" nogil:
    const int kMajor, kMinor, kCpu, kMostAxes
    const int kInt32, kInt64, kFloat16, kFloat32, kFloat64, kBFloat16, kBool

    cdef struct Tensor:
        char* data
        int32_t device, device_number, axes
        uint8_t code, bits
        uint16_t lanes
        int64_t* shape
        int64_t* strides
        uint64_t byte_offset

    cdef struct Managed:
        uint32_t major, minor
        void* owner
        void (*release)(Managed*) noexcept nogil
        uint64_t flags
        Tensor tensor

    cdef struct Exchange:
        int (*make)(Managed*, PyObject**) except -1
        int (*read)(void*, Tensor*) except -1

    const Exchange* known(const void*)
