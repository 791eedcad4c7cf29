// Matrix products of a warp on tensor cores (`mma.sync`, sm_80): S[16×8] += A[16×K]·B[K×8], sums in f32.
//
// TYPES. T is what the operands are rounded to: bf16 (K = 16) or tf32 (K = 8), so a step is 32 bytes
// deep in either: DEPTH<T> elements. Products of rounded operands are exact; nothing else is rounded.
//
// FRAGMENTS (PTX ISA, "Matrix Fragments for mma.m16n8k16 / m16n8k8 with floating point type"). Lane 4·g + t:
//
//     S  float i      row g + 8·(i / 2), column 2·t + i % 2              `sum_row`, `sum_column`
//     A  register r   row g + 8·(r % 2); bf16: columns 2·t + 8·(r / 2) and the next; tf32: t + 4·(r / 2)
//     B  register r   column g;          bf16: rows    2·t + 8·r       and the next; tf32: t + 4·r
//
// `load_*` fills them from a tile in shared memory that holds T: `ldmatrix`, whose lanes each name one row of 16
// bytes, so rows may lie anywhere (under a tap, in a border). Rows begin at 16 bytes; no bank is met twice where
// neighbouring rows lie an odd number of 16 bytes apart (`tile_row`). `separable_mma.cuh` gathers them from floats.
//
// Every lane of the warp calls each of these.
#pragma once
#include "common.cuh"

// A float whose lower 13 bits of mantissa were rounded away, to nearest, ties away from zero.
struct tf32 {
    u32 bits;
};

template <class T> constexpr u32 DEPTH = 32 / sizeof(T);

// Elements from a row of a tile to the next: at least `len`, an odd number of 16 bytes.
template <class T> __host__ __device__ constexpr u32 tile_row(u32 len) {
    constexpr u32 piece = 16 / sizeof(T);
    return ((len + piece - 1) / piece | 1) * piece;
}

__device__ __forceinline__ u32 round_tf32(float x) {
    u32 out;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(out) : "f"(x));
    return out;
}

// Stores of rounded elements, and loads of them, beside those of `common.cuh`.
template <int V> __device__ __forceinline__ void store(tf32* to, const Lanes<V>& x) {
    Lanes<V> rounded;
#pragma unroll
    for (int i = 0; i < V; ++i) rounded[i] = __uint_as_float(round_tf32(x[i]));
    store<V>(reinterpret_cast<float*>(to), rounded);
}
template <int V> __device__ __forceinline__ Lanes<V> load(const tf32* from) {
    return load<V>(reinterpret_cast<const float*>(from));
}

// A step's sums of a lane.
struct Sums {
    float v[4];
    __device__ __forceinline__ float& operator[](int i) { return v[i]; }
    __device__ __forceinline__ float operator[](int i) const { return v[i]; }
};
__device__ __forceinline__ u32 lane_of() { return threadIdx.x % 32; }
__device__ __forceinline__ u32 sum_row(int i) { return lane_of() / 4 + i / 2 * 8; }
__device__ __forceinline__ u32 sum_column(int i) { return lane_of() % 4 * 2 + i % 2; }

// sums += A·B
template <class T>
__device__ __forceinline__ void multiply(Sums& sums, const u32 (&a)[4], const u32 (&b)[2]) {
    if constexpr (sizeof(T) == 2)
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- from tiles of T in shared memory ----

// Four or two matrices of eight rows of 16 bytes; lane 8·i + j names row j of matrix i. TRANSPOSED is for bf16.
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices(u32 (&to)[4], const void* row) {
    const u32 from = (u32)__cvta_generic_to_shared(row);
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3]) : "r"(from) : "memory");
}
template <bool TRANSPOSED> __device__ __forceinline__ void load_matrices(u32 (&to)[2], const void* row) {
    const u32 from = (u32)__cvta_generic_to_shared(row);
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                     : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                     : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
}

// A where a row of the tile is a row of A: row(m) → const T* at k = 0.
template <class T, class Row> __device__ __forceinline__ void load_a(u32 (&a)[4], Row row) {
    load_matrices<false>(a, row(lane_of() % 16) + lane_of() / 16 * (16 / sizeof(T)));
}

// B where a row of the tile is a column of B: column(n) → const T* at k = 0.
template <class T, class Column> __device__ __forceinline__ void load_b(u32 (&b)[2], Column column) {
    load_matrices<false>(b, column(lane_of() % 8) + lane_of() / 8 % 2 * (16 / sizeof(T)));
}

// A where a row of the tile is a column of A: column(k) → const T* at m = 0.
template <class T, class Column> __device__ __forceinline__ void load_a_transposed(u32 (&a)[4], Column column) {
    const u32 lane = lane_of();
    if constexpr (sizeof(T) == 2) {
        load_matrices<true>(a, column(lane / 16 * 8 + lane % 8) + lane / 8 % 2 * 8);
    } else {
#pragma unroll
        for (int r = 0; r < 4; ++r) a[r] = column(lane % 4 + r / 2 * 4)[lane / 4 + r % 2 * 8].bits;
    }
}

// B where a row of the tile is a row of B: row(k) → const T* at n = 0.
template <class T, class Row> __device__ __forceinline__ void load_b_transposed(u32 (&b)[2], Row row) {
    const u32 lane = lane_of();
    if constexpr (sizeof(T) == 2) {
        load_matrices<true>(b, row(lane % 16));
    } else {
#pragma unroll
        for (int r = 0; r < 2; ++r) b[r] = row(lane % 4 + r * 4)[lane / 4].bits;
    }
}
